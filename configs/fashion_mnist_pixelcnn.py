"""28 px Fashion-MNIST: the reference's pair for MNIST, a one-level VQ-VAE of 7x7 codes of 32 and its PixelCNN.

Code: https://github.com/unixpickle/vq-vae-2 (its MNIST model and generator); paper: https://arxiv.org/abs/1711.00937.
Losses, layers, Adam and batch size are the reference's.
Command: python launch.py --config=configs/fashion_mnist_pixelcnn.py --workdir=runs/fashion_mnist
Time: 6 min 24 s on two CPU cores from nothing, data included.
Numbers, test split: mse 0.0095, PSNR 20.8 dB, usage 100 %, prior nll 1.39 = 0.51 of the per-position cross-entropy.

Variants: none.
"""

from configs import mnist_pixelcnn


def get_config(variant=None):
    """The config; there are no variants."""
    config = mnist_pixelcnn.get_config()
    config.dataset.name = "fashion_mnist"
    return config
