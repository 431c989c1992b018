"""28 px Fashion-MNIST: VQ-GAN, 7x7 codes of 256, sharpened by a critic of patches, and a causal transformer over them.

Papers: https://arxiv.org/abs/2012.09841 (VQ-GAN), https://arxiv.org/abs/2104.03310 (LeCam).
Command: python launch.py --config=configs/fashion_mnist_vqgan.py --workdir=runs/fashion_mnist_vqgan
Time: 22 minutes on two CPU cores beside other jobs.
Numbers, test split: PSNR 24.0 dB, SSIM 0.84, usage 100 %, nll 0.64 of the codes' per-position cross-entropy; with and
without a critic, three seeds: docs/sharper.md.

Variants: `tiny`, the same way in seconds; `plain`, the same steps without a critic; `perceptual`, a loss in the maps of
a frozen net beside the critic, which is to be made first (docs/distances.md): a third of the distance.
"""

from ml_collections import ConfigDict

from configs import openmoji_vqgan


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "fashion_mnist", "image_size": 28, "range": (-1.0, 1.0), "flip": True, "views": 2},
            "autoencoder": {
                "name": "vqgan",
                "width": 16,
                "factors": (1, 2, 4),
                "blocks": 1,
                "attention": (),
                "z": 64,
                "groups": 8,
                "distance": "squared",
                "quantizer": {"name": "ema", "codebook_size": 256, "code_dim": 16, "decay": 0.985, "revive_after": 60},
            },
            "task": {
                "name": "adversarial",
                "start": 800,
                "lead": 200,
                "ramp": 200,
                "critic_width": 32,
                "critic_layers": 1,
                "critic_rate": 1e-3,
                "lecam": 0.01,
            },
            "loss_weights": {"reconstruction": 1.0, "commitment": 0.0625, "adversarial": 0.5},
            "optimizer": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "clip": 1.0,
                "b2": 0.99,
                "ema_rate": 0.99,
            },
            "train": {
                "batch_size": 16,
                "steps": 2000,
                "pictures_every": 1000,
                "evaluate_every": 1000,
                "checkpoint_every": 500,
            },
            "priors": {
                "codes": {
                    "name": "transformer",
                    "width": 128,
                    "layers": 4,
                    "heads": 4,
                    "label_condition": True,
                    "optimizer": {
                        "learning_rate": 1e-3,
                        "schedule": "cosine",
                        "warmup_steps": 100,
                        "clip": 1.0,
                        "ema_rate": 0.999,
                    },
                    "train": {"batch_size": 64, "steps": 1500},
                }
            },
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def perceptual(config):
    """The critic sees what is likely, the frozen net what was there."""
    config.loss_weights.perceptual = 0.1


VARIANTS = {"tiny": openmoji_vqgan.small, "plain": openmoji_vqgan.plain, "perceptual": perceptual}
