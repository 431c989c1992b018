"""1024 px photographs, three levels: 64x64, 128x128 and 256x256 codes of 512, a PixelCNN for each.

Paper: https://arxiv.org/abs/1906.00446, whose 1024 px model has three levels too, of 32, 64 and 128 (section 4.2); here
the finest map is a quarter of the image's side, as in https://github.com/unixpickle/vq-vae-2.
Data: a folder of images, --config.dataset.path=FOLDER; what does not fit in memory is streamed.
Command: python launch.py --config=configs/hierarchical_1024.py --config.dataset.path=FOLDER --workdir=runs/1024
Time and numbers: built and traced at full size, never trained; it wants several accelerators.

Variants: none.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config; there are no variants."""
    return ConfigDict(
        {
            "dataset": {"name": "folder", "image_size": 1024, "flip": True},
            "autoencoder": {
                "name": "hierarchical",
                "levels": 3,
                "width": 128,
                "quantizer": {"name": "ema", "codebook_size": 512, "code_dim": 64},
            },
            "loss_weights": {"reconstruction": 1.0, "feature": 0.25, "commitment": 0.25},
            "optimizer": {"learning_rate": 3e-4, "warmup_steps": 1000, "clip": 1.0},
            "train": {"batch_size": 32, "steps": 300_000, "dtype": "bfloat16", "checkpoint_every": 2000},
            "priors": {
                "top": prior(layers=16, attention_after=(4, 8, 12, 16), condition_blocks=0),
                "middle": prior(layers=16, attention_after=(), condition_blocks=6),
                "bottom": prior(layers=10, attention_after=(), condition_blocks=6),
            },
        }
    )


def prior(layers, attention_after, condition_blocks):
    """A gated PixelCNN; attention over the top map only, as in the paper."""
    return {
        "name": "pixelcnn",
        "depth": 128,
        "layers": layers,
        "attention_after": attention_after,
        "heads": 4,
        "dropout": 0.1,
        "condition_blocks": condition_blocks,
        "optimizer": {"learning_rate": 3e-4, "warmup_steps": 1000, "clip": 1.0, "ema_rate": 0.9999},
        "train": {"batch_size": 32, "steps": 300_000, "dtype": "bfloat16", "checkpoint_every": 2000},
    }
