"""What others call the parts of latent diffusion's U-Net.

Its authors (https://github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py) number what lies
on the way down, and what lies on the way up, through all levels: the first convolution, each residual block, each
halving is one of `input_blocks`; a doubling belongs to the block before it. Diffusers' UNet2DConditionModel
(https://github.com/huggingface/diffusers) has levels, on the way up from the coarsest.
"""

from collections.abc import Callable
from typing import NamedTuple

from vqvae_jax.interop.matches import Shapes
from vqvae_jax.interop.places import Renames, numbers
from vqvae_jax.networks.unet import UNet


class Names(NamedTuple):
    """Of one of the two."""

    first: str  # the first convolution
    last: str
    conv2: str  # a residual block's second one
    sizes: Callable[[Shapes], tuple[int, int]]  # → levels, blocks a level
    parts: Callable[[int, int], tuple[str, str]]  # level, blocks → its first residual block and transformer
    renames: Callable[[UNet], Renames]


TRANSFORMER: Renames = (
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
ORIGINAL_INSIDE: Renames = (
    (r"(block\d+)\.norm1\.", r"\1.in_layers.0."),
    (r"(block\d+)\.conv1\.", r"\1.in_layers.2."),
    (r"(block\d+)\.moment\.", r"\1.emb_layers.1."),
    (r"(block\d+)\.norm2\.", r"\1.out_layers.0."),
    (r"(block\d+)\.conv2\.", r"\1.out_layers.3."),
    (r"(block\d+)\.shortcut\.", r"\1.skip_connection."),
)
ORIGINAL_ENDS: Renames = (
    (r"\btime1\.", "time_embed.0."),
    (r"\btime2\.", "time_embed.2."),
    (r"\bconv_in\.", "input_blocks.0.0."),
    (r"\bmiddle_block0\.", "middle_block.0."),
    (r"\bmiddle_attention\.", "middle_block.1."),
    (r"\bmiddle_block1\.", "middle_block.2."),
    (r"\bnorm_out\.", "out.0."),
    (r"\bconv_out\.", "out.2."),
)


def original_renames(module: UNet) -> Renames:
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
        *TRANSFORMER,
        *ORIGINAL_INSIDE,
        (r"\bdown(\d+)_block(\d+)\.", lambda found: f"{down(found[1], int(found[2]))}.0."),
        (r"\bdown(\d+)_attention(\d+)\.", lambda found: f"{down(found[1], int(found[2]))}.1."),
        (r"\bdown(\d+)_half\.", lambda found: f"{down(found[1], blocks)}.0.op."),
        (r"\bup(\d+)_block(\d+)\.", lambda found: f"{up(found[1], int(found[2]))}.0."),
        (r"\bup(\d+)_attention(\d+)\.", lambda found: f"{up(found[1], int(found[2]))}.1."),
        (r"\bup(\d+)_double\.", lambda found: doubling(found[1])),
        *ORIGINAL_ENDS,
    )


def original_sizes(shapes: Shapes) -> tuple[int, int]:
    """Levels end with a halving, the last one apart."""
    halvings = numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.")
    ends = halvings or [len(numbers(shapes, r"input_blocks\.(\d+)\."))]
    return len(halvings) + 1, max(1, ends[0] - 1)


def original_parts(level: int, blocks: int) -> tuple[str, str]:
    start = f"input_blocks.{1 + level * (blocks + 1)}"
    return f"{start}.0", f"{start}.1"


def diffusers_renames(module: UNet) -> Renames:
    """As `original_renames`."""
    last = len(module.factors) - 1
    up = lambda found: f"up_blocks.{last - int(found[1])}."  # noqa: E731
    return (
        *TRANSFORMER,
        (r"(block\d+)\.moment\.", r"\1.time_emb_proj."),
        (r"(block\d+)\.shortcut\.", r"\1.conv_shortcut."),
        (r"_block(\d+)\.", r"_resnets.\1."),
        (r"_attention(\d+)\.", r"_attentions.\1."),
        (r"_half\.", "_downsamplers.0.conv."),
        (r"_double\.", "_upsamplers.0.conv."),
        (r"\bdown(\d+)_", r"down_blocks.\1."),
        (r"\bup(\d+)_", up),
        (r"\bmiddle_attention\.", "mid_block.attentions.0."),
        (r"\bmiddle_", "mid_block."),
        (r"\btime(\d)\.", r"time_embedding.linear_\1."),
        (r"\bnorm_out\.", "conv_norm_out."),
    )


def diffusers_sizes(shapes: Shapes) -> tuple[int, int]:
    levels = numbers(shapes, r"down_blocks\.(\d+)\.")
    return max(1, len(levels)), max(1, len(numbers(shapes, r"down_blocks\.0\.resnets\.(\d+)\.")))


def diffusers_parts(level: int, blocks: int) -> tuple[str, str]:
    return f"down_blocks.{level}.resnets.0", f"down_blocks.{level}.attentions.0"


NAMES = {
    "original": Names(
        "input_blocks.0.0.weight", "out.2.weight", "out_layers.3",
        original_sizes, original_parts, original_renames,
    ),
    "diffusers": Names(
        "conv_in.weight", "conv_out.weight", "conv2",
        diffusers_sizes, diffusers_parts, diffusers_renames,
    ),
}  # fmt: skip
