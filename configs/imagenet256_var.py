"""256 px ImageNet: VAR-d16 as it was published, 680 codes of ten scales in ten passes; for eight GPUs.

Paper: https://arxiv.org/abs/2404.02905. Transformer: the authors' train.py and README,
https://github.com/FoundationVision/VAR: 16 blocks of 1,024, 16 heads, drop path 0.1 · 16 / 24, a tenth of the labels
hidden, no mirror images; AdamW 1e-4 per 256 images, 768 of them, (0.9, 0.95), decay 0.05, clip 2, 200 epochs. Theirs
falls linearly to a tenth from a twentieth of the training on, and crops what is resized to 288 px: here the rate is
constant after a warm-up, and it is the middle square.
The tokenizer's network and codes are the authors' too, its training they never published: losses, critic and steps are
LlamaGen's (imagenet256_vqgan.py), codes that nobody takes are drawn anew. Never tried. Its weights are the surer way:
    python -m vqvae_jax import --checkpoint=vae_ch160v4096z32.pth --workdir=runs/tokenizer
    … --config.train.init_from=runs/tokenizer --config.train.epochs=0
Command: python launch.py --config=configs/imagenet256_var.py --workdir=runs/imagenet256_var
Needs: `imagenet2012` of TFDS, prepared; VGG16 and LPIPS' heads in the file of frozen nets (docs/distances.md). Without
them: --config.task.perceptual_net=mobilenet_v2.
Only traced. Published, in their README: FID 3.55 of 50,000 images, guided by their 1.5 with top_k 900 and top_p 0.96,
which `sample` says here; 310 M parameters, and the tokenizer's 109 M.
Planned memory of the transformer's compiled step at 96 sequences a device, an eighth of the batch, by the CPU's
compiler, one operation after the other: 245 GB beside the state's 3.7; attention's squares are among it, which cuDNN
does not keep, and what `remat` saves, 244, that compiler does not show. The other way to less is
--config.priors.codes.train.accumulate=4. 0.90 TFLOP a sequence and step by its count: a training of 2.3e20, on eight
H100 27 hours at 30 % of the peak, calculated.

Variants: `remat`, what is inside of the transformer's blocks is computed anew: less memory, a third more work; `tiny`,
all of it in seconds on 32 px drawings, narrow, without a perceptual loss.
"""

from ml_collections import ConfigDict

from vqvae_jax.autoencoders.published import PRESETS

DEPTH = 16  # of theirs 16, 20, 24 and 30; it is also the number of heads, and 64 channels each


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            "dataset": {
                "name": "imagenet2012",
                "image_size": 256,
                "range": (-1.0, 1.0),
                "flip": False,
                "test_split": "validation",
            },
            "autoencoder": {"name": "vqgan", **PRESETS["var"]},
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
            "optimizer": {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05, "clip": 1.0},
            "train": {"batch_size": 128, "epochs": 40, "dtype": "bfloat16", **often(5000)},
            "priors": {"codes": prior()},
            "sample": {"guidance": 2.5, "top_k": 900, "top_p": 0.96},
        }
    )
    config.autoencoder.quantizer.inner.revive_after = 1000
    if variant:
        VARIANTS[variant](config)
    return config


def often(steps):
    """How often what is measured, written and shown."""
    return {"evaluate_every": steps, "checkpoint_every": steps, "pictures_every": steps}


def prior():
    """It hears by the tokenizer's codes, which it keeps."""
    return {
        "name": "var",
        "code_dim": 32,
        "shared": True,
        "phis": 4,
        "held_features": True,
        "local": False,
        "width": 64 * DEPTH,
        "layers": DEPTH,
        "heads": DEPTH,
        "drop_path": 0.1 * DEPTH / 24,
        "label_condition": True,
        "label_dropout": 0.1,
        "sample_growing_guidance": True,
        "optimizer": {
            "learning_rate": 3e-4,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.05,
            "clip": 2.0,
            "warmup_steps": 5000,
        },
        "train": {"batch_size": 768, "epochs": 200, "dtype": "bfloat16", **often(10_000)},
    }


def remat(config):
    """For devices with less memory."""
    config.priors.codes.remat = True


def tiny(config):
    """32 px drawings, scales 1, 2, 4, one narrow block of each kind, a few steps a stage."""
    config.dataset.update(name="openmoji", image_size=32, test_split="test")
    config.autoencoder.update(width=4, factors=(1, 1, 2, 2), blocks=1, groups=2, z=8)
    config.autoencoder.quantizer.scales = (1, 2, 4)
    config.autoencoder.quantizer.inner.update(codebook_size=32, code_dim=8)
    config.task.update(perceptual_net="mobilenet_v2", start=2, critic_width=4, critic_layers=1)
    config.loss_weights = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25, "adversarial": 0.1}
    config.priors.codes.update(code_dim=8, width=16, layers=2, heads=2)
    config.sample.update(count=4, top_k=16)
    for stage in (config, config.priors.codes):
        stage.train.update(batch_size=4, steps=4, epochs=0, dtype="float32", log_every=2, **often(4))


VARIANTS = {"remat": remat, "tiny": tiny}
