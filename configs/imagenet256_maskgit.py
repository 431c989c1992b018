"""256 px ImageNet: MaskGIT as it was published, 16x16 codes of 1,024 and a bidirectional transformer; for eight GPUs.

Paper: https://arxiv.org/abs/2202.04200. Recipe: the authors' configs/maskgit_class_cond_config.py and vqgan_config.py,
https://github.com/google-research/maskgit, whose loop is not published; epochs are the paper's. The transformer's is
whole but for the dropout of attention's weights. The tokenizer's has other nets here, never tried together: a critic of
patches for StyleGAN's, LPIPS for a ResNet's logits, no term of entropy. Its published weights are the surer way:
    python -m vqvae_jax import --checkpoint=tokenizer_imagenet256_checkpoint --workdir=runs/tokenizer
    … --config.train.init_from=runs/tokenizer --config.train.steps=0
Command: python launch.py --config=configs/imagenet256_maskgit.py --workdir=runs/imagenet256_maskgit
Needs: `imagenet2012` of TFDS, prepared; VGG16 and LPIPS' heads in the file of frozen nets (docs/distances.md). Without
them: --config.task.perceptual_net=mobilenet_v2.
Only traced. Expected, from the paper's table 1: FID 6.18, IS 182.1 with 8 steps, 227 M parameters: 172.5 M and the
tokenizer's 54.5 M; rFID 2.28 by the authors' README. Calculated: 0.75 TFLOP of the transformer an image drawn; a
training of 1.1e20, on eight H100 13 hours at 30 % of the peak; half of that rate is a likely beginning.
Planned memory of the transformer's compiled step at 32 sequences a device, an eighth of the batch, by the CPU's
compiler: 32 GB, 2.8 of them the state; attention's squares are among it, which cuDNN does not keep. 282 GFLOP a
sequence and step by its count.

Variants: `guided`, a tenth of the labels is hidden in training, so that guidance works: --config.sample.guidance=2.
"""

from ml_collections import ConfigDict

from vqvae_jax.autoencoders.published import PRESETS


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {"name": "imagenet2012", "image_size": 256, "flip": True, "test_split": "validation"},
            "autoencoder": {"name": "vqgan", **PRESETS["maskgit"]},
            "task": {
                "name": "adversarial",
                "perceptual_net": "vgg16",
                "adaptive": False,
                "critic_loss": "non_saturating",
                "critic_rate": 1e-4,
                "critic_b1": 0.0,
                "critic_b2": 0.99,
                "r1": 10.0,
            },
            "loss_weights": {
                "reconstruction": 1.0,
                "perceptual": 0.1,
                "codebook": 1.0,
                "commitment": 0.25,
                "adversarial": 0.1,
            },
            "optimizer": {"learning_rate": 1e-4, "b1": 0.0, "b2": 0.99, "ema_rate": 0.999},
            "train": {
                "batch_size": 256,
                "steps": 1_000_000,
                "dtype": "bfloat16",
                "evaluate_every": 10_000,
                "checkpoint_every": 10_000,
                "pictures_every": 10_000,
            },
            "priors": {
                "codes": {
                    "name": "maskgit",
                    "width": 768,
                    "layers": 24,
                    "heads": 16,
                    "dropout": 0.1,
                    "norm": "post",
                    "local": False,
                    "smoothing": 0.1,
                    "label_condition": True,
                    "label_dropout": 0.0,
                    "optimizer": {
                        "learning_rate": 1e-4,
                        "b1": 0.9,
                        "b2": 0.96,
                        "weight_decay": 0.045,
                        "warmup_steps": 5000,
                        "ema_rate": 0.999,
                    },
                    "train": {
                        "batch_size": 256,
                        "epochs": 300,
                        "dtype": "bfloat16",
                        "evaluate_every": 10_000,
                        "checkpoint_every": 10_000,
                        "pictures_every": 10_000,
                    },
                },
            },
        }
    )
    if variant:
        VARIANTS[variant](config)
    return config


def guided(config):
    """Not published: the authors have no guidance."""
    config.priors.codes.label_dropout = 0.1


VARIANTS = {"guided": guided}
