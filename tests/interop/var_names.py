"""Names and shapes of VAR's published files, written from their description alone."""

import numpy as np
from interop.vqgan_names import conv, published

HITS = "quantize.ema_vocab_hit_SV"


def tokenizer(width=160, factors=(1, 1, 2, 2, 4), codes=4096, code_dim=32, scales=10, blocks=2, phis=4):
    """Name → shape: taming's, with attention's layers in one, 3x3 convolutions around the codes, and φ."""
    found = published(width, factors, codes, code_dim, z=code_dim, blocks=blocks)
    for name, shape in list(found.items()):
        start, layer, part = ("", *name.rsplit(".", 2))[-3:]
        if layer in ("q", "k", "v"):
            del found[name]
            found[f"{start}.qkv.{part}"] = (3 * shape[0], *shape[1:])
        if name in ("quant_conv.weight", "post_quant_conv.weight"):
            found[name] = (code_dim, code_dim, 3, 3)
    for i in range(phis):
        number = f"qresi_ls.{i}" if phis > 1 else "qresi"
        found |= conv(f"quantize.quant_resi.{number}", code_dim, code_dim, 3)
    return found | {HITS: (scales, codes)}


def linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def transformer(depth=16, width=0, codes=4096, code_dim=32, labels=1000, sides=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)):
    """Name → shape, buffers too."""
    width, places = width or 64 * depth, sum(side**2 for side in sides)
    found = {"pos_start": (1, sides[0] ** 2, width), "pos_1LC": (1, places, width)}
    found |= linear("word_embed", width, code_dim) | {"class_emb.weight": (labels + 1, width)}
    found |= {"lvl_embed.weight": (len(sides), width), "lvl_1L": (1, places)}
    found |= {"attn_bias_for_masking": (1, 1, places, places)}
    for i in range(depth):
        block = f"blocks.{i}"
        found |= {f"{block}.attn.scale_mul_1H11": (1, width // 64 or 1, 1, 1)}
        found |= {f"{block}.attn.{name}": (width,) for name in ("q_bias", "v_bias", "zero_k_bias")}
        found |= {f"{block}.attn.mat_qkv.weight": (3 * width, width)} | linear(f"{block}.attn.proj", width, width)
        found |= linear(f"{block}.ffn.fc1", 4 * width, width) | linear(f"{block}.ffn.fc2", width, 4 * width)
        found |= linear(f"{block}.ada_lin.1", 6 * width, width)
    return found | linear("head_nm.ada_lin.1", 2 * width, width) | linear("head", codes, width)


def given(shapes, sides, random):
    """Random arrays of such names, the buffers as they are."""
    found = {name: random.normal(size=shape, scale=0.2).astype(np.float32) for name, shape in shapes.items()}
    if "lvl_1L" in found:
        scale = np.concatenate([np.full(side**2, i) for i, side in enumerate(sides)])
        found["lvl_1L"] = scale[None]
        found["attn_bias_for_masking"] = np.where(scale[:, None] >= scale, 0, -np.inf)[None, None].astype(np.float32)
        found |= {name: np.zeros_like(one) for name, one in found.items() if name.endswith("zero_k_bias")}
    return found
