"""28 px MNIST: CVQ-VAE, 7x7 codes of 512, drawn to encoder outputs the less they are used; a causal transformer.

Paper: https://arxiv.org/abs/2307.15139, section 4.1 and its published training: K 512, D 64, width 128, two residual
blocks of 32, batch 1024, Adam 3e-4, 500 epochs, the closest encoding as anchor, pixels in [-1, 1], reconstruction
divided by the variance of the images in [0, 1], 0.095: a weight of 10.5. Codes and anchors are found by direction,
all else is of raw vectors, as there (equal to the authors' code: tests/quantizers/test_cvq.py).
Command: python launch.py --config=configs/mnist_cvqvae.py --workdir=runs/mnist_cvqvae
Numbers, `short`, test split (MNIST from an .npz): PSNR 22.8 dB, SSIM 0.88 (0.94 with the window below), usage 99 %,
prior nll 1.79 = 0.47 of the per-position cross-entropy; 11 minutes on one CPU core. The whole: not run.
The paper's, after its 500 epochs: PSNR 27.87 dB, SSIM 0.9833 (a uniform window of 11 pixels, ours is Gaussian).

Variants: `short`, 2 epochs of batch 128 and a quarter of the prior's steps, for a machine without an accelerator. In
so few steps everything on the sphere serves better (distance "sphere"; by distance, "l2", three epochs had 21.6 dB and
used 67 % of the codes).
"""

from ml_collections import ConfigDict

from configs import mnist_transformer


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "mnist", "image_size": 28, "range": (-1.0, 1.0)},
            "autoencoder": {
                "name": "vqvae",
                "width": 128,
                "residual_blocks": 2,
                "residual_width": 32,
                "quantizer": {"name": "cvq", "codebook_size": 512, "code_dim": 64, "distance": "cos"},
            },
            "loss_weights": {"reconstruction": 1 / 0.095, "codebook": 1.0, "commitment": 0.25},
            "optimizer": {"learning_rate": 3e-4},
            "train": {"batch_size": 1024, "epochs": 500, "pictures_every": 2000},
            "priors": mnist_transformer.get_config().priors,
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def short(config):
    """A few minutes on two cores."""
    config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=100)
    config.autoencoder.quantizer.distance = "sphere"
    config.train.update(batch_size=128, epochs=2, pictures_every=500)
    config.priors.codes.train.steps = 1000


VARIANTS = {"short": short}
