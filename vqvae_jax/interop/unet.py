"""The U-Net of latent diffusion by its authors' names, https://github.com/CompVis/latent-diffusion
(ldm/modules/diffusionmodules/openaimodel.py).

They number what lies on the way down, and what lies on the way up, through all levels: the first convolution, each
residual block, each halving is one of `input_blocks`; a doubling belongs to the block before it.

Stable Diffusion's is told the states of a text encoder that is not here: it is imported as a bare network, whose
workdir has no stages. Its config.json says the network, what it is given, and how wide what it attends to is:

    {"stack": [{"layer": "unet", "given": 4, "context": 768, "channels": 4, "width": 320, …}]}
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.interop.matches import Match, Shapes, Tensors
from vqvae_jax.interop.places import Places, Renames, numbers, of_params, shapes_of
from vqvae_jax.networks.unet import UNet
from vqvae_jax.types import Model, UserError

TITLE = "latent diffusion's U-Net"
LAYER = "unet"
PREFIX = "model.diffusion_model."  # in a file of the whole model
FIRST, LAST = "input_blocks.0.0.weight", "out.2.weight"
HEADS = 8  # Stable Diffusion 1's


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels, blocks and transformers, with a context or without. facts are empty.

    Raises:
        UserError: heads do not divide its widths.
    """
    start = PREFIX if all(name.startswith(PREFIX) for name in tensors) else ""
    shapes = {name.removeprefix(start): shape for name, shape in shapes_of(tensors).items()}
    if FIRST not in shapes or LAST not in shapes:
        return None
    section = {"stack": [described(shapes, heads or HEADS)]}
    module, like, places = loaded(section)
    (layer,) = section["stack"]
    told = f", told vectors of {layer['context']}" if layer["context"] else ""
    title = f"{TITLE}, {module.width} wide, {len(module.factors)} levels{told}"
    named = {f"{start}{name}": place for name, place in places.items()}
    return Match(title, "stack", section, {}, module, like, named)


def described(shapes: Shapes, heads: int) -> dict[str, Any]:
    """The entry of the config's `stack`."""
    width, given, _, _ = shapes[FIRST]
    halvings = numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.")
    blocks = max(1, (halvings or [len(numbers(shapes, r"input_blocks\.(\d+)\."))])[0] - 1)
    starts = [f"input_blocks.{1 + level * (blocks + 1)}." for level in range(len(halvings) + 1)]
    widths = [shapes.get(f"{start}0.out_layers.3.bias", (width,))[0] for start in starts]
    if uneven := [wide for wide in widths if wide % heads]:
        raise UserError(f"--heads={heads}: {uneven[0]} channels of {TITLE} do not divide among them; --heads=N")
    contexts = [shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    return {
        "layer": LAYER,
        "given": given,
        "context": (contexts or [0])[0],
        "channels": shapes[LAST][0],
        "width": width,
        "factors": [max(1, wide // width) for wide in widths],
        "blocks": blocks,
        "attention": [level for level, start in enumerate(starts) if f"{start}1.proj_in.weight" in shapes],
        "heads": heads,
    }


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a workdir's config says a U-Net and not layers of a PixelCNN."""
    return bool(config["stack"][0]["layer"] == LAYER)


def loaded(config: Mapping[str, Any]) -> tuple[UNet, Model, Places]:
    """The network of a workdir's config, shapes of its parameters, and where the tensors of its twin lie."""
    (layer,) = config["stack"]
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in layer.items()}
    given, context, _ = (fields.pop(name) for name in ("given", "context", "layer"))
    module = UNet(**fields)
    like = abstract(module, given, context)
    return module, like, of_params(like.params, renames(module))


def abstract(module: UNet, given: int, context: int) -> Model:
    """Shapes of its parameters, given so many numbers a place; nothing is computed."""
    shapes = (1, module.stride, module.stride, given), (1,), (1, 1, context)
    x, time, told = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    init = lambda x, time, told: module.init(jax.random.key(0), x, time, None, told)  # noqa: E731
    return Model(jax.eval_shape(init, x, time, told if context else None)["params"], {})


INSIDE: Renames = (
    (r"(block\d+)\.norm1\.", r"\1.in_layers.0."),
    (r"(block\d+)\.conv1\.", r"\1.in_layers.2."),
    (r"(block\d+)\.moment\.", r"\1.emb_layers.1."),
    (r"(block\d+)\.norm2\.", r"\1.out_layers.0."),
    (r"(block\d+)\.conv2\.", r"\1.out_layers.3."),
    (r"(block\d+)\.shortcut\.", r"\1.skip_connection."),
    (r"(attention\d*)\.enter\.", r"\1.proj_in."),
    (r"(attention\d*)\.leave\.", r"\1.proj_out."),
    (r"(attention\d*)\.(norm\d|itself|other|up|down)\.", r"\1.transformer_blocks.0.\2."),
    (r"\.itself\.", ".attn1."),
    (r"\.other\.", ".attn2."),
    (r"\.(query|key|value)\.", lambda found: f".to_{found[1][0]}."),
    (r"\.mix_heads\.", ".to_out.0."),
    (r"\.up\.", ".ff.net.0.proj."),
    (r"\.down\.", ".ff.net.2."),
)
ENDS: Renames = (
    (r"\btime1\.", "time_embed.0."),
    (r"\btime2\.", "time_embed.2."),
    (r"\bconv_in\.", "input_blocks.0.0."),
    (r"\bmiddle_block0\.", "middle_block.0."),
    (r"\bmiddle_attention\.", "middle_block.1."),
    (r"\bmiddle_block1\.", "middle_block.2."),
    (r"\bnorm_out\.", "out.0."),
    (r"\bconv_out\.", "out.2."),
)


def renames(module: UNet) -> Renames:
    """Of its parameters, whatever stands before their names."""
    levels, blocks = len(module.factors), module.blocks

    def down(level: str, i: int) -> str:
        return f"input_blocks.{1 + int(level) * (blocks + 1) + i}"

    def up(level: str, i: int) -> str:
        return f"output_blocks.{(levels - 1 - int(level)) * (blocks + 1) + i}"

    def doubling(level: str) -> str:
        attends = {int(level), int(level) - levels} & set(module.attention)
        return f"{up(level, blocks)}.{2 if attends else 1}.conv."

    return (
        *INSIDE,
        (r"\bdown(\d+)_block(\d+)\.", lambda found: f"{down(found[1], int(found[2]))}.0."),
        (r"\bdown(\d+)_attention(\d+)\.", lambda found: f"{down(found[1], int(found[2]))}.1."),
        (r"\bdown(\d+)_half\.", lambda found: f"{down(found[1], blocks)}.0.op."),
        (r"\bup(\d+)_block(\d+)\.", lambda found: f"{up(found[1], int(found[2]))}.0."),
        (r"\bup(\d+)_attention(\d+)\.", lambda found: f"{up(found[1], int(found[2]))}.1."),
        (r"\bup(\d+)_double\.", lambda found: doubling(found[1])),
        *ENDS,
    )
