"""256 px ImageNet: LlamaGen's VQ-GAN as it was published, 16x16 codes of 16,384 on the sphere; for eight GPUs.

Papers: https://arxiv.org/abs/2406.06525 (LlamaGen, section 2.2), https://arxiv.org/abs/2012.09841 (VQ-GAN).
Recipe: the authors' tokenizer/tokenizer_image/vq_train.py: squared error and LPIPS, both 1; hinge loss 0.5 from step
20,000 on, without the adaptive weight, the critic with batch norm; codebook 1, commitment 0.25; Adam 1e-4 (0.9, 0.95),
decay 0.05, clip 1, batch 128, 40 epochs, bfloat16. Theirs also clips and decays the critic's, which ours does not.
Command: python launch.py --config=configs/imagenet256_vqgan.py --workdir=runs/imagenet256_vqgan
Needs: `imagenet2012` of TFDS, prepared; VGG16 and LPIPS' heads in the file of frozen nets (docs/distances.md). Without
them: --config.task.perceptual_net=mobilenet_v2.
Expected, from the paper, not run here: rFID 2.19 on 50,000 validation images (table 2). On eight H100, calculated: 1.34
TFLOP an image and step, 220 images/s a GPU at 30 % of the peak, 8 hours; half of that rate is a likely beginning.
Measured on one H200 at 16 images, bfloat16, without LPIPS: 60.6 ms a step, 264 images/s, 43 % of the rate, 10.9 GB.
Planned memory of the compiled step at 16 images a device, an eighth of the batch, without LPIPS, by the CPU's compiler:
32 GB; `remat` 31, `f8` 43. 1.21 TFLOP an image and step by its count.

Variants: `f8`, 32x32 codes; `remat`, what is inside of the blocks is computed anew: less memory, a third more work.
"""

from ml_collections import ConfigDict

from vqvae_jax.autoencoders.published import PRESETS


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    adam = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05, "clip": 1.0}
    config = ConfigDict(
        {
            "dataset": {
                "name": "imagenet2012",
                "image_size": 256,
                "range": (-1.0, 1.0),
                "flip": True,
                "test_split": "validation",
            },
            "autoencoder": {"name": "vqgan", **PRESETS["llamagen_f16"]},
            "task": {
                "name": "adversarial",
                "perceptual_net": "vgg16",
                "start": 20_000,
                "adaptive": False,
                "critic_width": 64,
                "critic_layers": 3,
                "critic_norm": "batch",
                "critic_rate": 1e-4,
                "critic_b1": 0.9,
                "critic_b2": 0.95,
            },
            "loss_weights": {
                "reconstruction": 1.0,
                "perceptual": 1.0,
                "codebook": 1.0,
                "commitment": 0.25,
                "adversarial": 0.5,
            },
            "optimizer": adam,
            "train": {
                "batch_size": 128,
                "epochs": 40,
                "dtype": "bfloat16",
                "evaluate_every": 5000,
                "checkpoint_every": 1000,
                "pictures_every": 5000,
            },
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def f8(config):
    """Four times the codes."""
    config.autoencoder.update(PRESETS["llamagen_f8"])


def remat(config):
    """For devices with less memory."""
    config.autoencoder.remat = True


VARIANTS = {"f8": f8, "remat": remat}
