"""From the names and shapes of the PyTorch references to ours. Images there are NCHW, here NHWC.

Kernels: convolutions OIHW → HWIO, transposed ones IOHW → HWIO, linear layers transposed, embeddings as they are.
"""

import re
from collections.abc import Mapping

import flax
import numpy as np

MODULES = (  # in this order, each wherever it is found
    (r"residual(\d)\.1\.", r"residual\1.conv1."),  # 0 and 2 are relus
    (r"residual(\d)\.3\.", r"residual\1.conv2."),
    (r"^model\.", "pixel_cnn."),
    (r"\blayer_(\d+)\.", r"layers_\1."),
    (r"\.attention\.", "."),
    (r"^embed_bottom\.", "embed."),
    (r"^embed_top\.", "coarse_stack.embed0."),
    (r"^cond_stack\.(\d+)\.(conv|norm)", r"coarse_stack.block0_\1.\2"),
    (r"^cond_stack\.\d+\.", "coarse_stack.up0."),  # the last is the transposed convolution
    (r"^out_stack\.0\.", "merge_stacks."),
    (r"^out_stack\.\d+\.(weight|bias)", r"to_logits.\1"),  # the last is no block
)
# rosinality's VQ-VAE-2: each stack is one sequence, where relus have a number too.
SEQUENCES = {
    ("enc_b", "encoder_bottom"): {0: "down0", 2: "down1", 4: "conv", 5: "residual0", 6: "residual1"},
    ("enc_t", "encoder_top"): {0: "down0", 2: "conv", 3: "residual0", 4: "residual1"},
    ("dec_t", "decoder_top"): {0: "conv", 1: "residual0", 2: "residual1", 4: "output"},
    ("dec", "decoder"): {0: "conv", 1: "residual0", 2: "residual1", 4: "up0", 6: "output"},
}
VQVAE2 = {
    rf"^{theirs}\.blocks\.{number}\.": f"{ours}.{layer}."
    for (theirs, ours), layers in SEQUENCES.items()
    for number, layer in layers.items()
}
MODULES += (
    *VQVAE2.items(),
    (r"(residual\d)\.conv\.1\.", r"\1.conv1."),  # 0 and 2 are relus
    (r"(residual\d)\.conv\.3\.", r"\1.conv2."),
    (r"^quantize_conv_t\.", "to_code_top."),
    (r"^quantize_conv_b\.", "to_code_bottom."),
    (r"^upsample_t\.", "upsample_top."),
)
TRANSPOSED = ("decoder_", "cond_stack.", "dec.", "dec_t.", "upsample_t.")  # whose 4x4 convolutions are transposed
FOREIGN = (  # what our parameters have no place for
    r"\.vq\.",  # codebooks are no parameters: see `codes`
    r"^quantize_[tb]\.",  # nor are these: see `averages`
    r"^model\.layer_[1-9]\d*\.cond_layer\.",  # the MNIST generator never uses it
)


def params(arrays: Mapping[str, np.ndarray]) -> dict:
    """PyTorch name → array, as a tree like our parameters; for weights and gradients alike."""
    kept = {name: array for name, array in arrays.items() if not any(re.search(f, name) for f in FOREIGN)}
    return flax.traverse_util.unflatten_dict({our_name(n): our_array(n, a) for n, a in kept.items()}, sep="/")


def codes(arrays: Mapping[str, np.ndarray], levels: tuple[str, ...], what: str = "dictionary") -> dict[str, np.ndarray]:
    """Level → its dictionary (or `usage_count`): encoder_0 is the bottom, `levels` go from the top down."""
    return {level: arrays[f"encoder_{i}.vq.{what}"] for i, level in enumerate(reversed(levels))}


def averages(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Level → codes [K, D], count [K] and sum [K, D] of an EMA codebook; there [D, K]."""
    buffers = {"codes": "embed", "count": "cluster_size", "sum": "embed_avg"}
    return {
        level: {ours: arrays[f"quantize_{level[0]}.{theirs}"].T for ours, theirs in buffers.items()}
        for level in ("top", "bottom")
    }


def our_name(name: str) -> str:
    for pattern, ours in MODULES:
        name = re.sub(pattern, ours, name)
    # Blocks of the output are counted from 0, the first convolution aside.
    name = re.sub(r"^out_stack\.(\d+)", lambda found: f"blocks_{int(found[1]) - 1}", name)
    leaf = "scale" if ".norm." in name else "embedding" if "embed" in name else "kernel"
    return re.sub(r"\.weight$", f".{leaf}", name).replace(".", "/")


def our_array(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        transposed = array.shape[2:] == (4, 4) and name.startswith(TRANSPOSED)
        return array.transpose(2, 3, 0, 1) if transposed else array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 and "embed" not in name else array


def images(array: np.ndarray) -> np.ndarray:
    """NCHW → NHWC; whatever has no channels stays as it is."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array
