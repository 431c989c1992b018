"""64 px drawings by latent diffusion: a KL autoencoder of 16x16 places, and a small diffusion transformer on its maps.

Papers: https://arxiv.org/abs/2112.10752 (latent diffusion), https://arxiv.org/abs/2212.09748 (DiT),
https://arxiv.org/abs/2210.02747 (flow matching).
Command: python launch.py --config=configs/openmoji_diffusion.py --workdir=runs/openmoji_diffusion
Time: 41 minutes on two CPU cores beside other jobs; at an idle minute's rate the steps alone take 22.
Numbers, on drawings whose stems were not seen: PSNR 26.7 dB, SSIM 0.94; 500 samples at a Fréchet distance of 3.2 (the
demo's 2.8, a tie), a kernel distance of 0.070 (0.048).

Variants: `tiny`, the same way in seconds at 32 px (tests). `text`, told the names of the drawings in place of their
groups: docs/texts.md.
"""

from ml_collections import ConfigDict

from configs import openmoji_hierarchical


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "openmoji", "image_size": 64, "range": (-1.0, 1.0), "flip": True, "views": 2},
            "autoencoder": {
                "name": "vqvae",
                "width": 64,
                "residual_blocks": 2,
                "residual_width": 32,
                "smooth_start": True,
                "quantizer": {"name": "kl", "code_dim": 4},
            },
            # Ten times what pictures alone want: maps with less in them are foretold better.
            "loss_weights": {"reconstruction": 1.0, "kl": 1e-2},
            "optimizer": {
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "warmup_steps": 50,
                "clip": 1.0,
                "b2": 0.99,
                "ema_rate": 0.99,
            },
            "train": {
                "batch_size": 4,
                "steps": 5000,
                "pictures_every": 2500,
                "evaluate_every": 2500,
                "checkpoint_every": 1000,
            },
            "priors": {"codes": prior()},
            "sample": {"guidance": 2.0},
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def prior():
    """Narrow and long: of few places, many steps."""
    return {
        "name": "diffusion",
        "network": {"name": "dit", "width": 96, "layers": 4, "heads": 4, "patch": 2, "local": True, "dropout": 0.1},
        "label_condition": True,
        "optimizer": {
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "clip": 1.0,
            "b2": 0.99,
            "ema_rate": 0.995,
        },
        "train": {
            "batch_size": 32,
            "steps": 12000,
            "log_every": 100,
            "evaluate_every": 1000,
            "pictures_every": 3000,
            "checkpoint_every": 1000,
        },
    }


def tiny(config):
    """32 px, 16 wide, a few steps a stage."""
    config.dataset.image_size = 32
    config.autoencoder.update(width=16, residual_blocks=1, residual_width=8)
    config.autoencoder.quantizer.code_dim = 4
    config.priors.codes.network.update(width=16, layers=1, heads=2)
    config.priors.codes.sample_steps = 3
    config.sample.count = 4
    openmoji_hierarchical.few_steps(config)


def text(config):
    """As `text` of the demo."""
    openmoji_hierarchical.text(config)
    config.priors.codes.train.update(steps=7000, pictures_every=7000)
    config.sample.guidance = 3.0


VARIANTS = {"tiny": tiny, "text": text}
