"""Weights of frozen nets for tests: random, by the names of the published files and of the real shapes."""

import zipfile

import numpy as np
from interop.torch_bytes import dictionary, old, program, tensor, zipped

from vqvae_jax.features import NETS, efficientnet_lite0, file, inverted, mobilenet_v2
from vqvae_jax.features.inverted import Block
from vqvae_jax.features.layers import normalised
from vqvae_jax.features.net import Net

TORCH_NAMES = {"mobilenet_v2": mobilenet_v2.torch_names, "efficientnet_lite0": efficientnet_lite0.torch_names}
NORM = ("weight", "bias", "running_mean", "running_var")


BLOCKS = (Block(1, 4, 3, 1), Block(6, 8, 3, 2), Block(6, 8, 3, 1))


def narrow(name="mobilenet_v2"):
    """A net of three blocks that compiles in a second, and its arrays."""
    shapes = inverted.shapes(BLOCKS)
    maps = lambda arrays, images: inverted.maps(arrays, normalised(images), BLOCKS, inverted.symmetric)  # noqa: E731
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in shapes.items()}
    return Net(name, shapes, maps, dict, 3, (1, 3)), arrays


def torch_tensors(name, seed=0):
    """A state dict of the net, as PyTorch's file has it."""
    rng = np.random.default_rng(seed)
    found = {}
    for layer, shape in kernels(name).items():
        form = (shape[-1], 1, *shape[:2]) if len(shape) == 3 else (shape[3], shape[2], *shape[:2])
        weight = rng.standard_normal(form, np.float32) * np.float32((2 / np.prod(form[1:])) ** 0.5)
        if name == "vgg16":
            found |= {f"features.{layer}.weight": weight, f"features.{layer}.bias": np.zeros(form[0], np.float32)}
            continue
        kernel, norm = TORCH_NAMES[name](layer)
        found[f"{kernel}.weight"] = weight
        found |= {f"{norm}.{part}": rng.random(form[0], np.float32) + np.float32(0.5) for part in NORM}
    return found


def kernels(name):
    """Layer → shape of its kernel."""
    shapes = NETS[name].shapes
    return {key.removesuffix("/kernel"): shape for key, shape in shapes.items() if key.endswith("/kernel")}


def heads(seed=0, widths=(64, 128, 256, 512, 512)):
    """LPIPS' file."""
    rng = np.random.default_rng(seed)
    return {f"lin{i}.model.1.weight": rng.random((1, c, 1, 1), np.float32) for i, c in enumerate(widths)}


def write_features(path, *names):
    """A file of frozen nets; of one that `narrow` stands for, its arrays."""
    for name in names:
        if len(NETS[name].shapes) == len(narrow()[1]):
            file.add(name, narrow()[1], path)
            continue
        file.add(name, NETS[name].from_torch(torch_tensors(name)), path)
    if "vgg16" in names:
        file.add(file.HEADS, {str(i): head.reshape(-1) for i, head in enumerate(heads().values())}, path)
    return path


def pth(tensors, old_format=False):
    """The bytes of a PyTorch file of these float32 tensors."""
    described, storages = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        key, strides = str(number), [stride // 4 for stride in np.ascontiguousarray(array).strides]
        described[name] = tensor(key, array.size, array.shape, tuple(strides))
        elements = array.astype("<f4").tobytes()
        storages[key] = (elements, array.size) if old_format else elements
    pickled = program(dictionary(described))
    return old(pickled, storages) if old_format else zipped(pickled, storages)


def wheel(path, members):
    """A wheel: a zip with these members, name → bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net-1.0.dist-info/METADATA", "Name: net\n")
        for name, content in members.items():
            archive.writestr(name, content)
    return path
