"""The demo's drawings as maps of numbers: 16x16 places of four, the first half of latent diffusion.

Papers: https://arxiv.org/abs/2112.10752 (latent diffusion, its KL-regularized autoencoder), https://arxiv.org/abs/1312.6114.
The networks are those of https://arxiv.org/abs/1711.00937, small enough for two CPU cores; the weight of the KL term is
a mean's, see vqvae_jax/quantizers/kl.py.
Command: python launch.py --config=configs/openmoji_kl.py --workdir=runs/openmoji_kl
Time: 1.5 minutes on two CPU cores, evaluation included.
Numbers, on drawings whose stems were not seen: PSNR 26.1 dB, SSIM 0.93.

Variants: none.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config; there are no variants."""
    return ConfigDict(
        {
            "dataset": {"name": "openmoji", "image_size": 64, "range": (-1.0, 1.0), "flip": True},
            "autoencoder": {
                "name": "vqvae",
                "width": 64,
                "residual_blocks": 2,
                "residual_width": 32,
                "quantizer": {"name": "kl", "code_dim": 4},
            },
            "loss_weights": {"reconstruction": 1.0, "kl": 1e-4},
            "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 50, "clip": 1.0},
            "train": {"batch_size": 4, "steps": 3000, "pictures_every": 1000, "checkpoint_every": 1000},
        }
    )
