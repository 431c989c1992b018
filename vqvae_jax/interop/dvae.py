"""DALL-E's first stage by the names of https://github.com/openai/DALL-E, encoder and decoder in one file.

OpenAI's two files hold whole modules, which are not read. Where its package `dall_e` is installed they become one:

    parts = {part: torch.load(f"{part}.pkl", weights_only=False).state_dict() for part in ("encoder", "decoder")}
    torch.save({f"{part}.{name}": one for part in parts for name, one in parts[part].items()}, "dvae.pt")
"""

from typing import Any

from vqvae_jax import parts
from vqvae_jax.autoencoders.dvae import DVAE, LEVEL
from vqvae_jax.interop.matches import Match, Shapes, Tensors
from vqvae_jax.interop.places import POINTWISE, Place, Places, Renames, numbers, of_params, shapes_of
from vqvae_jax.types import Model

TITLE = "DALL-E's dVAE"
CODES = "decoder.blocks.input.w"  # of the decoder's first convolution, which the codes are
BRANCH = "res_path.conv_4.b"  # of a block; as wide as the block
# As published: 6.6 nats a place beside the sum over 192 subpixels a place, which is a mean here.
LOSS_WEIGHTS = {"reconstruction": 1.0, "kl": 6.6 / 192}
RAMP_STEPS = 150_000


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, groups, blocks and codes. facts: channels, image_size and range as published, loss_weights."""
    shapes = shapes_of(tensors)
    groups = numbers(shapes, r"encoder\.blocks\.group_(\d+)\.")
    width = shapes.get("encoder.blocks.input.b", (0,))[0]
    if not width or not groups or groups != list(range(1, len(groups) + 1)):
        return None
    channels = (*shapes.get("encoder.blocks.input.w", ()), 3, 3)[1]
    section = described(shapes, len(groups), width, channels)
    value_range = DVAE.image_range(section) or (0.0, 1.0)
    facts = {"channels": channels, "image_size": 256, "range": value_range, "loss_weights": LOSS_WEIGHTS}
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts | {"image_size": 2 ** len(groups)})
    title = f"{TITLE}, {width} wide, {len(groups)} groups"
    return Match(title, "autoencoder", section, facts, module, like, places(module, like))


def described(shapes: Shapes, groups: int, width: int, channels: int) -> dict[str, Any]:
    """The section of a config."""
    ends = [shapes.get(f"encoder.blocks.group_{i}.block_1.{BRANCH}", (width,))[0] for i in range(1, groups + 1)]
    return {
        "name": "dvae",
        "width": width,
        "factors": tuple(max(1, wide // width) for wide in ends),
        "blocks": max(1, len(numbers(shapes, r"encoder\.blocks\.group_1\.block_(\d+)\."))),
        "likelihood": "squared" if shapes.get("decoder.blocks.output.conv.b") == (channels,) else "logit_laplace",
        "quantizer": {
            "name": "gumbel",
            "codebook_size": shapes.get("encoder.blocks.output.conv.b", (8192,))[0],
            "code_dim": shapes.get("decoder.blocks.input.b", (128,))[0],
            "ramp_steps": RAMP_STEPS,
        },
        "quantizers": {},
    }


RENAMES: Renames = (
    (r"\.group(\d+)_block(\d+)\.", lambda found: f".group_{int(found[1]) + 1}.block_{int(found[2]) + 1}."),
    (r"(block_\d+)\.conv(\d)", r"\1.res_path.conv_\2"),
    (r"\.shortcut\.", ".id_path."),
    (r"\.conv_in\.", ".input."),
    (r"\.conv_out\.", ".output.conv."),
    (r"^decoder\.bias$", "decoder.input.bias"),
    (r"^(encoder|decoder)\.", r"\1.blocks."),
    (r"kernel$", "w"),
    (r"bias$", "b"),
)


def places(module: DVAE, like: Model) -> Places:
    """Where the tensors of its PyTorch twin lie; without codes there is no kernel of the decoder's first layer."""
    found = of_params(like.params, RENAMES)
    codes = like.codebooks[LEVEL].codes
    return found | ({CODES: Place(("codebooks", LEVEL, "codes"), POINTWISE)} if codes.size else {})
