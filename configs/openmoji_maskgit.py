"""The demo's drawings and autoencoder, with MaskGIT in place of both PixelCNNs: any part of a picture drawn anew.

Papers: https://arxiv.org/abs/2202.04200 (MaskGIT), https://arxiv.org/abs/1906.00446 (VQ-VAE-2).
Command: python launch.py --config=configs/openmoji_maskgit.py --workdir=runs/openmoji_maskgit
Time: the priors 18 minutes on two CPU cores beside other jobs: 6,000 and 2,400 steps.
Numbers, on drawings whose stems were not seen: prior nll, a bound, 0.57 (top) and 0.30 (bottom) of the codes'
per-position cross-entropy; 500 samples at a Fréchet distance of 2.3 (the demo's 2.8: a tie). In the demo's minutes it
is behind: docs/models.md.

Variants: `tiny`, the same way in seconds at 32 px (tests). `text`, told the names of the drawings in place of their
groups: docs/texts.md.
"""

from ml_collections import ConfigDict

from configs import openmoji_hierarchical


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = openmoji_hierarchical.get_config()
    config.priors.top = ConfigDict(prior(64, 4, batch_size=16, steps=6000))
    config.priors.bottom = ConfigDict(prior(64, 3, batch_size=16, steps=2400))
    config.priors.bottom.label_condition = False  # the top says it all, and guidance would cost a second pass
    config.sample.update(temperature=0.8, top_p=1.0, guidance=1.5)
    if variant:
        VARIANTS[variant](config)
    return config


def prior(width, layers, batch_size, steps):
    """Narrow and long, for few images."""
    return {
        "name": "maskgit",
        "width": width,
        "layers": layers,
        "heads": 2,
        "dropout": 0.1,
        "label_condition": True,
        "sample_steps": 12,
        # Nearly at random: by confidence alone the white ground comes first, and the ink is lost.
        "sample_choice_temperature": 20.0,
        "optimizer": openmoji_hierarchical.adam(4e-3),
        "train": {"batch_size": batch_size, "steps": steps, "pictures_every": steps, "checkpoint_every": 500},
    }


def tiny(config):
    """32 px, 16 wide, a few steps a stage."""
    openmoji_hierarchical.small(config)
    for level in config.priors.values():
        level.update(width=16, layers=1, heads=2, sample_steps=3)


def text(config):
    """As `text` of the demo, and the mean of a name's words at every place."""
    openmoji_hierarchical.text(config)
    for level in config.priors.values():
        level.pooled_text = True
    config.priors.top.train.update(steps=4000, pictures_every=4000)
    config.priors.bottom.train.update(steps=1600, pictures_every=1600)
    config.sample.guidance = 2.0


VARIANTS = {"tiny": tiny, "text": text}
