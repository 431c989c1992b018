"""64 px drawings from their names: DALL-E, a discrete VAE of 8x8 codes and a causal transformer over name and codes.

Paper: https://arxiv.org/abs/2102.12092.
Command: python launch.py --config=configs/openmoji_dalle.py --workdir=runs/openmoji_dalle
         python -m vqvae_jax sample --workdir=runs/openmoji_dalle --text="red heart" --count=8
Time: 6 min 11 s on two idle CPU cores.
Numbers, on drawings whose stems were not seen: PSNR 18.5 dB, SSIM 0.77, usage 99 %, prior nll 0.74 of the codes'
per-position cross-entropy, 0.09 nats a token more under another drawing's name; of names that were never told 0.80 are
drawn in the colour that they say.

The names of the split "composed" are never told, so that they can be asked for: docs/texts.md.

Variants: `tiny`, the same way in seconds at 32 px (tests).
"""

from ml_collections import ConfigDict

from configs import openmoji_hierarchical


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {
                "name": "openmoji",
                "split": "told",
                "image_size": 64,
                "range": (-1.0, 1.0),
                "flip": True,
                "views": 2,
            },
            "autoencoder": {
                "name": "vqvae",
                "halvings": 3,
                "width": 64,
                "residual_blocks": 2,
                "residual_width": 32,
                "smooth_start": True,
                "quantizer": {"name": "gumbel", "codebook_size": 256, "code_dim": 64, "ramp_steps": 16000},
            },
            # Without the term few codes are used; in half the steps rare colours, green or purple, become others.
            "loss_weights": {"reconstruction": 1.0, "kl": {"begin": 0.0, "end": 1e-2, "start": 0, "steps": 300}},
            "optimizer": {
                "learning_rate": 2.5e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "clip": 1.0,
                "b2": 0.99,
                "ema_rate": 0.99,
            },
            "train": {
                "batch_size": 4,
                "steps": 20000,
                "pictures_every": 10000,
                "evaluate_every": 10000,
                "checkpoint_every": 2500,
            },
            "text": {"length": 20},
            "priors": {"codes": prior()},
            "sample": {"temperature": 0.9, "top_p": 0.95, "guidance": 3.0},
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def prior():
    """Small: a few hundred steps say what a word looks like, more learn names by heart."""
    return {
        "name": "transformer",
        "width": 96,
        "layers": 3,
        "heads": 4,
        "dropout": 0.2,
        "text_condition": True,
        "foretell_text": True,
        "pooled_text": True,
        "loss_weights": {"nll": 7 / 8, "text": 1 / 8},
        "optimizer": {**openmoji_hierarchical.adam(2e-3), "b2": 0.99},
        "train": {
            "batch_size": 32,
            "steps": 1000,
            "evaluate_every": 100,
            "pictures_every": 1000,
            "checkpoint_every": 100,
        },
    }


def tiny(config):
    """32 px, 16 wide, a few steps a stage."""
    config.dataset.image_size = 32
    config.autoencoder.update(width=16, residual_blocks=1, residual_width=8)
    config.autoencoder.quantizer.update(codebook_size=32, code_dim=16, ramp_steps=4)
    config.priors.codes.update(width=16, layers=1, heads=2)
    config.sample.count = 4
    openmoji_hierarchical.few_steps(config)


VARIANTS = {"tiny": tiny}
