"""32 px CIFAR-10 from an .npz: the reference's hierarchical VQ-VAE, smaller, with its losses and its optimizer.

Paper: https://arxiv.org/abs/1906.00446; code: https://github.com/unixpickle/vq-vae-2.
Data: data/cifar10_subset.npz with uint8 train_image [N, 32, 32, 3], test_image and integer train_label, test_label;
make it from CIFAR-10's arrays with np.savez; --config.dataset.path=FILE takes it from elsewhere.
Command: python launch.py --config=configs/cifar10_hierarchical.py --workdir=runs/cifar10
Time: 2 min 44 s on one CPU core, beside another training.
Numbers, three seeds: test PSNR 20.8 ± 0.4 dB; from PyTorch's initial weights on its batches, mean of three seeds: mse
0.01005, PyTorch's 0.01014 (docs/reference.md).

Variants: none.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config; there are no variants."""
    return ConfigDict(
        {
            "dataset": {"name": "npz", "path": "data/cifar10_subset.npz", "image_size": 32},
            "autoencoder": {
                "name": "hierarchical",
                "levels": 2,
                "width": 64,
                "quantizer": {"name": "vq", "codebook_size": 256, "code_dim": 64},
            },
            "loss_weights": {"reconstruction": 1.0, "feature": 1.0, "codebook": 1.0, "commitment": 0.25},
            "optimizer": {"learning_rate": 1e-3},
            "train": {"batch_size": 16, "steps": 500},
            "priors": {"top": prior(steps=500), "bottom": prior(steps=500)},
        }
    )


def prior(steps):
    """A gated PixelCNN that knows the class of its image."""
    return {
        "name": "pixelcnn",
        "depth": 64,
        "layers": 7,
        "dropout": 0.1,
        "label_condition": True,
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 50, "clip": 1.0},
        "train": {"batch_size": 16, "steps": steps},
    }
