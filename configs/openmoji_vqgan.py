"""64 px drawings: VQ-GAN, one map of 8x8 codes, sharpened by a critic of patches; a label-conditional transformer.

Papers: https://arxiv.org/abs/2012.09841 (VQ-GAN), https://arxiv.org/abs/2104.03310 (LeCam).
Command: python launch.py --config=configs/openmoji_vqgan.py --workdir=runs/openmoji_vqgan
Time: 30 minutes on two CPU cores beside other jobs.
Numbers, 210 unseen drawings: PSNR 19.6 dB, SSIM 0.83, usage 100 %, nll 0.73 of the codes' per-position cross-entropy;
500 samples at a Fréchet distance of 3.3 (the demo's 2.8: a tie). Without a critic the same distances: docs/sharper.md.

Variants: `tiny`, the same way in seconds at 32 px (tests); `plain`, the same steps without a critic.
"""

from ml_collections import ConfigDict

from configs import openmoji_hierarchical


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "openmoji", "image_size": 64, "range": (-1.0, 1.0), "flip": True, "views": 2},
            "autoencoder": {
                "name": "vqgan",
                "width": 16,
                "factors": (1, 2, 2, 4),
                "blocks": 1,
                "attention": (),
                "z": 64,
                "groups": 8,
                "distance": "squared",
                "quantizer": {"name": "ema", "codebook_size": 512, "code_dim": 16, "decay": 0.985, "revive_after": 60},
            },
            "task": {
                "name": "adversarial",
                "start": 2000,
                "lead": 300,
                "ramp": 300,
                "critic_width": 32,
                "critic_layers": 2,
                "critic_rate": 1e-3,
                "lecam": 0.01,
            },
            "loss_weights": {"reconstruction": 1.0, "commitment": 1 / 16, "adversarial": 0.3},
            "optimizer": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "clip": 1.0,
                "b2": 0.99,
                "ema_rate": 0.99,
            },
            "train": {
                "batch_size": 8,
                "steps": 3500,
                "pictures_every": 1000,
                "evaluate_every": 1000,
                "checkpoint_every": 500,
            },
            "priors": {
                "codes": {
                    "name": "transformer",
                    "width": 128,
                    "layers": 6,
                    "heads": 4,
                    "dropout": 0.1,
                    "label_condition": True,
                    "optimizer": openmoji_hierarchical.adam(2e-3),
                    "train": {"batch_size": 32, "steps": 600, "pictures_every": 600, "checkpoint_every": 100},
                }
            },
            "sample": {"temperature": 0.9, "top_p": 0.9, "guidance": 2.0},
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def tiny(config):
    """32 px, 8 wide, a few steps a stage; the critic joins in them."""
    config.dataset.image_size = 32
    small(config)


def small(config):
    """Of any such recipe, whatever its images."""
    config.autoencoder.update(width=8, factors=(1, 2), middle_blocks=0, decoder_blocks=1, z=16)
    config.autoencoder.quantizer.update(codebook_size=32, code_dim=8)
    config.task.update(start=3, lead=0, ramp=2, critic_width=8, critic_layers=1)
    config.priors.codes.update(width=16, layers=1, heads=2)
    config.update({"sample": {"count": 4}})
    openmoji_hierarchical.few_steps(config)


def plain(config):
    """Without a critic."""
    config.task = ConfigDict({"name": "autoencode"})
    del config.loss_weights.adversarial


VARIANTS = {"tiny": tiny, "plain": plain}
