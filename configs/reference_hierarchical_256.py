"""The PyTorch reference at full size: 256 px, 512 codes of 128 channels a level, its TopPrior and BottomPrior.

Paper: https://arxiv.org/abs/1906.00446; code: https://github.com/unixpickle/vq-vae-2 (make_vae, TopPrior, BottomPrior).
Data: data/images_256.npz with uint8 train_image [N, 256, 256, 3] and test_image; --config.dataset.path=FILE takes it
from elsewhere.
Command: python launch.py --config=configs/reference_hierarchical_256.py --workdir=runs/reference
Time: not measured yet; it wants an accelerator.
Numbers: outputs, losses, gradients and training steps are the reference's (tests of parity).

Variants: `bfloat16`, networks in bfloat16; codebooks stay float32.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "npz", "path": "data/images_256.npz", "image_size": 256},
            "autoencoder": {
                "name": "hierarchical",
                "levels": 2,
                "width": 128,
                "quantizer": {"name": "vq", "codebook_size": 512, "code_dim": 128},
            },
            "loss_weights": {"reconstruction": 1.0, "feature": 1.0, "codebook": 1.0, "commitment": 0.25},
            "optimizer": {"learning_rate": 1e-3},
            "train": {"batch_size": 64, "steps": 100_000},
            "priors": {
                "top": prior("top_prior", batch_size=32, steps=200_000),
                "bottom": prior("bottom_prior", batch_size=16, steps=200_000),
            },
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def prior(name, batch_size, steps):
    """The reference's prior, trained as there: plain Adam, 1e-4."""
    return {
        "name": name,
        "optimizer": {"learning_rate": 1e-4},
        "train": {"batch_size": batch_size, "steps": steps, "checkpoint_every": 1000, "evaluate_every": 1000},
    }


def bfloat16(config):
    """Every network in bfloat16."""
    for stage in (config, config.priors.top, config.priors.bottom):
        stage.train.dtype = "bfloat16"


VARIANTS = {"bfloat16": bfloat16}
