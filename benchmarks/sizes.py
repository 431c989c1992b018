"""The models that the benchmarks measure: fields of their constructors. Imports nothing, and so touches no device."""

MNIST = {"size": 28, "channels": 1, "levels": 1, "width": 16, "codes": 32}
PHOTOGRAPHS = {"channels": 3, "levels": 2, "width": 128, "codes": 512}
GENERATOR = {"name": "mnist_generator", "vocab_size": 32, "shape": (7, 7)}
TOP = {"name": "top_prior", "vocab_size": 512, "shape": (32, 32)}
BOTTOM = {"name": "bottom_prior", "vocab_size": 512, "shape": (64, 64), "coarse_sizes": (512,)}
TRANSFORMER = {"name": "transformer", "vocab_size": 1024, "shape": (16, 16), "width": 512, "layers": 12, "heads": 8}
MASKGIT = {**TRANSFORMER, "name": "maskgit", "local": False}
DIT = {"channels": 4, "shape": (16, 16), "network": {"name": "dit", "width": 512, "layers": 12, "heads": 8}}
VQGAN = {"config": "configs/imagenet256_vqgan.py", "size": 256, "overrides": ("--config.dataset.name=openmoji",)}
# Of recipes for a CPU: `openmoji_vqgan.py`, `openmoji_diffusion.py`, and the demo's top under two other priors.
DRAWINGS = {"config": "configs/openmoji_vqgan.py", "size": 64}
PLAIN = {**DRAWINGS, "config": "configs/openmoji_vqgan.py:plain"}
SMALL_MAP = {"width": 128, "layers": 6, "heads": 4, "vocab_size": 256, "shape": (8, 8)}
NARROW = {"name": "dit", "width": 96, "layers": 4, "heads": 4, "patch": 2, "local": True, "dropout": 0.1}
NARROW_DIT = {"channels": 4, "shape": (16, 16), "network": NARROW}
