"""From the names and shapes of the PyTorch reference to ours. Images there are NCHW, here NHWC.

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
FOREIGN = (  # what our parameters have no place for
    r"\.vq\.",  # codebooks are no parameters: see `codes`
    r"^model\.layer_[1-9]\d*\.cond_layer\.",  # the MNIST generator never uses it
)


def params(arrays: Mapping[str, np.ndarray]) -> dict:
    """PyTorch name → array, as a tree like our parameters; for weights and gradients alike."""
    kept = {name: array for name, array in arrays.items() if not any(re.search(f, name) for f in FOREIGN)}
    return flax.traverse_util.unflatten_dict({our_name(n): our_array(n, a) for n, a in kept.items()}, sep="/")


def codes(arrays: Mapping[str, np.ndarray], levels: tuple[str, ...], what: str = "dictionary") -> dict[str, np.ndarray]:
    """Level → its dictionary (or `usage_count`): encoder_0 is the bottom, `levels` go from the top down."""
    return {level: arrays[f"encoder_{i}.vq.{what}"] for i, level in enumerate(reversed(levels))}


def our_name(name: str) -> str:
    for pattern, ours in MODULES:
        name = re.sub(pattern, ours, name)
    # Blocks of the output are counted from 0, the first convolution aside.
    name = re.sub(r"^out_stack\.(\d+)", lambda found: f"blocks_{int(found[1]) - 1}", name)
    leaf = "scale" if ".norm." in name else "embedding" if "embed" in name else "kernel"
    return re.sub(r"\.weight$", f".{leaf}", name).replace(".", "/")


def our_array(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        # Encoders have 4x4 convolutions, decoders and the condition's stack 4x4 transposed ones.
        transposed = array.shape[2:] == (4, 4) and name.startswith(("decoder_", "cond_stack."))
        return array.transpose(2, 3, 0, 1) if transposed else array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 and "embed" not in name else array


def images(array: np.ndarray) -> np.ndarray:
    """NCHW → NHWC; whatever has no channels stays as it is."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array
