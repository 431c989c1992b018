"""The U-Net of latent diffusion by its authors' names, https://github.com/CompVis/latent-diffusion
(ldm/modules/diffusionmodules/openaimodel.py).

They number what lies on the way down, and what lies on the way up, through all levels: the first convolution, each
residual block, each halving is one of `input_blocks`; a doubling belongs to the block before it.
"""

from vqvae_jax.interop.places import Renames
from vqvae_jax.networks.unet import UNet

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
