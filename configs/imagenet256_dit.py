"""256 px ImageNet by latent diffusion: Stable Diffusion's first stage, and DiT-XL/2 over its maps; for eight GPUs.

Papers: https://arxiv.org/abs/2212.09748 (DiT: the network, label dropout, EMA), https://arxiv.org/abs/2501.01423
(LightningDiT: flow, velocity, logit-normal times, batch 1024, 80,000 steps, Adam 2e-4 (0.9, 0.95), no guidance at
times above 0.9), https://arxiv.org/abs/2401.08740 (SiT: DiT with flow). LightningDiT's first stage (VA-VAE), RoPE,
SwiGLU, RMS norm, cosine loss and shifted times are not here; clipping and 50 steps of second order are ours.
The first stage is not trained but brought, by its authors' names or diffusers' (docs/models.md):
    python -m vqvae_jax import --checkpoint=vae/diffusion_pytorch_model.safetensors --workdir=runs/first_stage
Command: python launch.py --config=configs/imagenet256_dit.py --workdir=runs/imagenet256_dit
Needs: `imagenet2012` of TFDS, prepared; 21 GB of disk for the maps of the images and of their mirror images.
Only traced; in small, 32 px and random weights, import and training went through. 674.8 M parameters. Published gFID
of 50,000 images: DiT-XL/2 2.27 with guidance 1.5, 9.62 without, and SiT-XL/2 2.06 and 8.3, all after 7 M steps of 256,
1,400 epochs; LightningDiT 2.11 after 64 epochs, about 10 hours on eight H800, with its own first stage. With Stable
Diffusion's it has 7.13 without guidance after 80: what to expect here is of that kind. 8.3 and 7.13 are quoted from
memory.
Calculated: 0.72 TFLOP a map and step, a training of 5.9e19; on eight H100 7 hours at 30 % of the peak; LightningDiT's
10 hours are 21 % by this count. A DiT of 512 × 12 reached 39 % of an H200's rate (docs/benchmarks.md).
Planned memory of the compiled step by the CPU's compiler, one operation after the other: 37 GB at 32 maps a device,
120 at 128, an eighth of the batch, 8.1 of them the state; 23 are squares of attention, which cuDNN does not keep. At
512 × 12 an H200 took about half of what is so counted: 55 to 60 GB, calculated. What `remat` saves that compiler does
not show: what is kept for the backward pass falls from 118 GB to 5.4, weights included, by JAX's count. The other way
to less is --config.priors.codes.train.accumulate=4.

Variants: `remat`, what is inside of the blocks is computed anew: for devices of less than 80 GB, a third more work.
"""

from ml_collections import ConfigDict

from vqvae_jax.autoencoders.published import PRESETS


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {
                "name": "imagenet2012",
                "image_size": 256,
                "range": (-1.0, 1.0),
                "flip": True,
                "views": 2,
                "test_split": "validation",
            },
            "autoencoder": {"name": "vqgan", **PRESETS["kl_f8"]},
            "loss_weights": {"reconstruction": 1.0, "kl": 1e-6},
            "train": {"init_from": "runs/first_stage"},
            "priors": {
                "codes": {
                    "name": "diffusion",
                    "network": {"name": "dit", "width": 1152, "layers": 28, "heads": 16, "patch": 2},
                    "path": "flow",
                    "foretold": "velocity",
                    "times": "logit_normal",
                    "label_condition": True,
                    "label_dropout": 0.1,
                    "sample_steps": 50,
                    "sample_guided": (0.0, 0.9),
                    "optimizer": {"learning_rate": 2e-4, "b2": 0.95, "clip": 1.0, "ema_rate": 0.9999},
                    "train": {
                        "batch_size": 1024,
                        "steps": 80_000,
                        "dtype": "bfloat16",
                        "evaluate_every": 5000,
                        "checkpoint_every": 2500,
                        "pictures_every": 10_000,
                    },
                },
            },
            "sample": {"guidance": 1.5},
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def remat(config):
    """For devices with less memory."""
    config.priors.codes.network.remat = True


VARIANTS = {"remat": remat}
