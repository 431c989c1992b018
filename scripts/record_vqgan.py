"""Small VQ-GANs of their authors' own classes, and first stages of latent diffusion, which are built like them, for
record_reference.py. Needs torch; taming's and latent diffusion's code einops as well.

    git clone https://github.com/CompVis/taming-transformers PATH
    python scripts/record_reference.py --path=PATH --model=record_vqgan:taming --range=-1,1 \\
        --arguments='{"width": 32, "multipliers": [1, 2], "codes": 32}' --input=images.npz --output=recording.npz

    git clone https://github.com/FoundationVision/LlamaGen PATH
    python scripts/record_reference.py --path=PATH --model=record_vqgan:llamagen --range=-1,1 … as above

    git clone https://github.com/CompVis/latent-diffusion PATH
    python scripts/record_reference.py --path=PATH --model=record_vqgan:latent_diffusion --range=-1,1 … as above

record_critic.py records taming's critic and losses beside such a recording.

Groups of the norms are 32, so widths are multiples of 32; where a level has 32 channels, biases in front of a norm have
no gradient but rounding. What the authors' initialisation leaves at 0 or 1 is random here, or a missing one would not
show; weights have the digits of bfloat16, so that files are half as large.
"""

from __future__ import annotations  # torch may be missing

import importlib
import sys
import types
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch


def taming(
    width: int = 32, multipliers: Sequence[int] = (1, 2), blocks: int = 1, z: int = 8, codes: int = 32, size: int = 16
) -> torch.nn.Module:
    """VQModel with attention in its coarsest level and the middle; `size`: pixels, by which it finds that level.

    0.25 is on the commitment: its own code has it on the other term (`legacy`).
    """
    without_lightning()
    fields = network(width, multipliers, blocks, z, size)
    fields |= {"attn_resolutions": [size // 2 ** (len(multipliers) - 1)], "double_z": False}
    model = importlib.import_module("taming.models.vqgan").VQModel(fields, {}, codes, z)
    model.quantize.legacy = False
    return scattered(model)


def latent_diffusion(
    width: int = 32, multipliers: Sequence[int] = (1, 2), blocks: int = 1, z: int = 4, size: int = 16
) -> torch.nn.Module:
    """AutoencoderKL with attention in the middle alone."""
    without_lightning()
    util, taming_vq = types.ModuleType("ldm.util"), types.ModuleType("taming.modules.vqvae.quantize")
    util.instantiate_from_config = lambda config: torch.nn.Identity()  # type: ignore[attr-defined]
    taming_vq.VectorQuantizer2 = torch.nn.Identity  # type: ignore[attr-defined]  # of a class that is not recorded
    attention = types.ModuleType("ldm.modules.attention")
    attention.LinearAttention = torch.nn.Identity  # type: ignore[attr-defined]
    others = {one.__name__: one for one in (util, taming_vq, attention)}
    packages = ("taming", "taming.modules", "taming.modules.vqvae")
    sys.modules |= others | {name: types.ModuleType(name) for name in packages}
    fields = network(width, multipliers, blocks, z, size) | {"attn_resolutions": [], "double_z": True}
    model = importlib.import_module("ldm.models.autoencoder").AutoencoderKL(fields, {}, z)
    return scattered(model)


def network(width: int, multipliers: Sequence[int], blocks: int, z: int, size: int) -> dict[str, Any]:
    """Fields that both classes have."""
    return {
        "ch": width, "ch_mult": tuple(multipliers), "num_res_blocks": blocks, "z_channels": z, "resolution": size,
        "in_channels": 3, "out_ch": 3, "dropout": 0.0,
    }  # fmt: skip


def without_lightning() -> None:
    """Their classes are of PyTorch Lightning, and build their losses by config; neither is needed."""
    lightning, main = types.ModuleType("pytorch_lightning"), types.ModuleType("main")
    lightning.LightningModule = torch.nn.Module  # type: ignore[attr-defined]
    main.instantiate_from_config = lambda config: torch.nn.Identity()  # type: ignore[attr-defined]
    sys.modules |= {"pytorch_lightning": lightning, "main": main}


def llamagen(
    width: int = 32,
    multipliers: Sequence[int] = (1, 1),
    blocks: int = 1,
    z: int = 8,
    codes: int = 32,
    code_dim: int = 8,
) -> torch.nn.Module:
    """VQModel, whose width and number of blocks are the defaults of its parts."""
    code = importlib.import_module("tokenizer.tokenizer_image.vq_model")
    for part in ("Encoder", "Decoder"):
        setattr(code, part, partial(getattr(code, part), ch=width, num_res_blocks=blocks))
    fields = {"encoder_ch_mult": list(multipliers), "decoder_ch_mult": list(multipliers), "z_channels": z}
    # Without the count of used codes, a Parameter that is changed in place where gradients are taken.
    more = {"codebook_size": codes, "codebook_embed_dim": code_dim, "codebook_show_usage": False}
    return scattered(code.VQModel(code.ModelArgs(**fields, **more)))


@torch.no_grad()
def scattered(model: torch.nn.Module) -> torch.nn.Module:
    """With random scales, shifts and biases, and codes as far apart as encodings are."""
    for name, one in model.named_parameters():
        if name == "quantize.embedding.weight":
            one.copy_(torch.randn_like(one) * 0.3)
        elif one.ndim == 1:
            one.copy_(torch.randn_like(one) * 0.1 + ("norm" in name and name.endswith("weight")))
        one.copy_(one.bfloat16().float())
    return model
