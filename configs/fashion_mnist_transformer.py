"""28 px Fashion-MNIST: a small VQ-VAE of patches, 7x7 codes of 100, and a causal transformer over them.

Papers: https://arxiv.org/abs/1711.00937 (VQ-VAE), https://arxiv.org/abs/1706.03762 (transformer).
Command: python launch.py --config=configs/fashion_mnist_transformer.py --workdir=runs/fashion_mnist_transformer
Time: 6 min 42 s on two idle CPU cores.
20 epochs of each stage instead: the flags in mnist_transformer.py.
Numbers, test split (Fashion-MNIST from an .npz, one run): mse 0.0067, PSNR 22.3 dB, SSIM 0.79, usage 100 %, prior nll
1.67 = 0.46 of the per-position cross-entropy, 0.15 bits a pixel.

Variants: none.
"""

from configs import mnist_transformer


def get_config(variant=None):
    """The config; there are no variants."""
    config = mnist_transformer.get_config()
    config.dataset.name = "fashion_mnist"
    return config
