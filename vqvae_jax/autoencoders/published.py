"""Fields of `vqgan` with which it is what published weights were trained with.

Each is the section `autoencoder` of a config, without the name. Images are of 256 pixels in [-1, 1], MaskGIT's in
[0, 1]. In VAR's attention q, k and v are one convolution, which is naming alone. kl_… are latent diffusion's first
stages, kl_f8 also the network of Stable Diffusion's.
"""

from typing import Any


def codes(name: str, size: int, channels: int) -> dict[str, Any]:
    """A section `quantizer`; none of these codebooks is revived."""
    return {"name": name, "codebook_size": size, "code_dim": channels, "revive_after": 0}


def numbers(channels: int, factors: tuple[int, ...], attention: tuple[int, ...] = ()) -> dict[str, Any]:
    """A first stage over so many numbers a place; z is the same."""
    quantizer = {"name": "kl", "code_dim": channels}
    return {"factors": factors, "attention": attention, "z": channels, "quantizer": quantizer}


# Pixels of an image → sides of VAR's maps. One tokenizer, trained at 256, does both.
SCALES = {256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}


def of_scales(size: int, channels: int) -> dict[str, Any]:
    """VAR's quantizer: one codebook for all scales, four convolutions after enlarging."""
    inner = codes("vq", size, channels)
    return {"name": "multiscale", "inner": inner, "scales": SCALES[256], "phis": 4, "shared": True}


TAMING = {"width": 128, "blocks": 2, "z": 256}
EIGHTH = {"factors": (1, 2, 2, 4)}
PRESETS: dict[str, dict[str, Any]] = {
    "taming_f16_1024": {**TAMING, "quantizer": codes("vq", 1024, 256)},
    "taming_f16_16384": {**TAMING, "quantizer": codes("vq", 16384, 256)},
    "taming_gumbel_f8": {
        **TAMING,
        "factors": (1, 1, 2, 4),
        "quantizer": {
            "name": "gumbel",
            "codebook_size": 8192,
            "code_dim": 256,
            "straight_through": True,
            "vector_dim": 256,
        },
    },
    "llamagen_f16": {**TAMING, "distance": "squared", "quantizer": codes("cosine", 16384, 8)},
    "llamagen_f8": {**TAMING, **EIGHTH, "distance": "squared", "quantizer": codes("cosine", 16384, 8)},
    "kl_f4": numbers(3, (1, 2, 4)),
    "kl_f8": numbers(4, (1, 2, 4, 4)),
    "kl_f16": numbers(16, (1, 1, 2, 2, 4), attention=(4,)),
    "kl_f32": numbers(64, (1, 1, 2, 2, 4, 4), attention=(4, 5)),
    "var": {"width": 160, "z": 32, "code_kernel": 3, "quantizer": of_scales(4096, 32)},
    "maskgit": {
        "decoder_blocks": 2,
        "attention": (),
        "middle_attention": False,
        "down": "average",
        "shortcut": "branch",
        "biases": False,
        "code_kernel": 0,
        "distance": "squared",
        "quantizer": codes("vq", 1024, 256),
    },
}
