"""Latent diffusion's first stages as https://github.com/huggingface/diffusers calls them: its class AutoencoderKL.

The same network as by its authors' names (vqgan.py); the decoder's levels are numbered from the coarsest, attention is
linear layers, and what no tensor shows, the scale of the latents and the groups of the norms, stands in a config.json
beside the file.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax.autoencoders.vqgan import VQGAN
from vqvae_jax.files import read_json, write_json
from vqvae_jax.interop import vqgan
from vqvae_jax.interop.matches import Match, Tensors
from vqvae_jax.interop.places import Layout, Places, Renames, of_params
from vqvae_jax.interop.reading import plain, reading
from vqvae_jax.quantizers.kl import KLBottleneck
from vqvae_jax.types import Model, UserError

TITLE = "diffusers' AutoencoderKL"
CONFIG = "config.json"
CLASS = {"_class_name": "AutoencoderKL"}
LONGEST = 1 << 20  # bytes of a config
NAMES = vqgan.Names(
    r"encoder\.down_blocks\.", r"decoder\.up_blocks\.", "resnets", "attentions", "mid_block.resnets.{}",
    "mid_block.attentions.0.group_norm", TITLE, "kl", "absolute", {},
)  # fmt: skip
MARK = re.compile(r"\.(down_blocks|up_blocks|mid_block)\.")  # names that no other layout has
OLD = ("query", "key", "value", "proj_attn")  # of attention's layers, before there were others
NEW = ("to_q", "to_k", "to_v", "to_out.0")
LINEAR = Layout(lambda x: x[0, 0].T, lambda x: x.T[None, None])  # [out, in] ↔ a 1x1 convolution, HWIO


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width and levels. facts: as of `vqgan.match_taming`."""
    if not are_names_of(tensors):
        return None
    found = vqgan.matched(NAMES, tensors, lambda module, like: places(module, like, layers_in(tensors)))
    return found and found._replace(diffusers={})


def are_names_of(tensors: Tensors) -> bool:
    """Whether a file's names are diffusers'."""
    return any(MARK.search(name) for name in tensors)


def layers_in(tensors: Tensors) -> tuple[str, ...]:
    """What a file calls attention's layers."""
    return OLD if any(f".{OLD[0]}." in name for name in tensors) else NEW


def places(module: VQGAN, like: Model, layers: tuple[str, ...] = NEW) -> Places:
    """Where the tensors of that class lie; `layers`: what attention's are called."""
    found = of_params(like.params, renames(len(module.factors), layers))
    linear = re.compile(rf"\.attentions\.\d+\.({'|'.join(map(re.escape, layers))})\.weight$")
    return {name: place._replace(layout=LINEAR) if linear.search(name) else place for name, place in found.items()}


def renames(levels: int, layers: tuple[str, ...]) -> Renames:
    """Our names to theirs."""
    inside = zip(("q", "k", "v", "project"), layers, strict=True)
    return (
        (r"\.middle_block(\d+)", r".mid_block.resnets.\1"),
        (r"\.middle_attention", ".mid_block.attentions.0"),
        (r"\.(down|up)(\d+)_block(\d+)", r".\1\2_resnets.\3"),
        (r"\.(down|up)(\d+)_attention(\d+)", r".\1\2_attentions.\3"),
        (r"_half\.", "_downsamplers.0.conv."),
        (r"_double\.", "_upsamplers.0.conv."),
        (r"\.down(\d+)_", r".down_blocks.\1."),
        (r"\.up(\d+)_", lambda found: f".up_blocks.{levels - 1 - int(found[1])}."),
        (r"\.norm_out\.", ".conv_norm_out."),
        (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
        *((rf"(\.attentions\.\d+)\.{ours}\.", rf"\1.{theirs}.") for ours, theirs in inside),
        (r"\.shortcut\.", ".conv_shortcut."),
        (r"^to_code\.", "quant_conv."),
        (r"^from_code\.", "post_quant_conv."),
    )


# config.json


def beside(checkpoint: Path) -> dict[str, Any]:
    """What the config.json in the folder of a file says; nothing where there is none, or one of something else.

    Raises:
        UserError: it is damaged.
    """
    path = checkpoint.parent / CONFIG
    if not path.is_file():
        return {}
    with reading(path, "a config of diffusers"):
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        found = read_json(path)
    return found if is_theirs(found) else {}


def is_theirs(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of such an autoencoder."""
    return CLASS.items() <= config.items() or ("scaling_factor" in config and "latent_channels" in config)


def as_told(match: Match, config: dict[str, Any], path: object) -> Match:
    """The match with what a config says and tensors do not show.

    Raises:
        UserError: another activation, or groups that do not divide the widths.
    """
    match = match._replace(diffusers=config)
    activation, groups = config.get("act_fn", "silu"), config.get("norm_num_groups")
    if activation not in ("silu", "swish"):
        raise UserError(f"{path} says act_fn {plain(activation)!r}; this network has silu alone")
    if groups is None:
        return match
    if type(groups) is not int or groups < 1 or any(width % groups for width in widths(match.module)):
        raise UserError(f"{path} says norm_num_groups {plain(groups)}, which does not divide {widths(match.module)}")
    return match._replace(module=match.module.clone(groups=groups), section={**match.section, "groups": groups})


def widths(module: VQGAN) -> tuple[int, ...]:
    """Channels of the levels, fine to coarse."""
    return tuple(module.width * factor for factor in module.factors)


def write_beside(output: Path, config: Mapping[str, Any]) -> None:
    """config.json beside an exported file.

    Raises:
        UserError: there is one of something else.
    """
    check_beside(output)
    write_json(output.parent / CONFIG, config)


def check_beside(output: Path) -> None:
    """UserError where a config.json of something else is in the way."""
    path = output.parent / CONFIG
    if path.is_file():
        with reading(path, "a config of diffusers"):
            theirs = is_theirs(read_json(path))
        if not theirs:
            raise UserError(
                f"{path} is of something else, and diffusers wants its own there; give --output a new folder"
            )


def check(module: Any) -> None:
    """UserError where that class is another network."""
    if not isinstance(module, VQGAN) or not isinstance(module.quantizers[0], KLBottleneck):
        raise UserError(
            "--names=diffusers is for autoencoders `vqgan` with a quantizer `kl`, as latent diffusion's; leave it out"
        )
    wanted = {"down": "strided", "shortcut": "input", "biases": True, "code_kernel": 1, "middle_blocks": 2}
    wanted |= {"decoder_blocks": module.blocks + 1, "z": module.quantizers[0].code_dim}
    wanted |= {"groups": math.gcd(module.groups, *widths(module))}
    have = {name: getattr(module, name) for name in wanted}
    have["decoder_blocks"] = module.decoder_blocks or module.blocks + 1
    if other := [f"{name}={have[name]}" for name in wanted if have[name] != wanted[name]]:
        fit = ", ".join(f"{name}={value}" for name, value in wanted.items() if have[name] != value)
        raise UserError(f"{TITLE} wants {fit}; this autoencoder has {', '.join(other)}: --names=original")


def described(module: VQGAN, image_size: int) -> dict[str, Any]:
    """A config.json for this module; its latents' scale is latents.py's."""
    levels = len(module.factors)
    attends = [level in module.attention or level - levels in module.attention for level in range(levels)]
    kinds = ["Attn" if one else "" for one in attends]
    return CLASS | {
        "act_fn": "silu",
        "block_out_channels": list(widths(module)),
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "in_channels": module.channels,
        "latent_channels": module.z,
        "layers_per_block": module.blocks,
        "mid_block_add_attention": module.middle_attention,
        "norm_num_groups": module.groups,
        "out_channels": module.channels,
        "sample_size": image_size,
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
    }
