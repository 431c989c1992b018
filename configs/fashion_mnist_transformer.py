"""28 px Fashion-MNIST: a small VQ-VAE of patches, 7x7 codes of 100, and a causal transformer over them.

Papers: https://arxiv.org/abs/1711.00937 (VQ-VAE), https://arxiv.org/abs/1706.03762 (transformer).
Command: python launch.py --config=configs/fashion_mnist_transformer.py --workdir=runs/fashion_mnist_transformer

Variants: none.
"""

from configs import mnist_transformer


def get_config(variant=None):
    """The config; there are no variants."""
    config = mnist_transformer.get_config()
    config.dataset.name = "fashion_mnist"
    return config
