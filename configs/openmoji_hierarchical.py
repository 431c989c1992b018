"""The demo: 64 px OpenMoji drawings, a hierarchical VQ-VAE with EMA codebooks and its two PixelCNN priors.

Papers: https://arxiv.org/abs/1906.00446 (VQ-VAE-2), https://arxiv.org/abs/1606.05328 (gated PixelCNN).
Command: python launch.py --config=configs/openmoji_hierarchical.py --workdir=runs/demo
Time: 7 min 16 s on two CPU cores beside other jobs.
Numbers, on drawings whose stems were not seen: PSNR 24.9 dB, SSIM 0.93, usage 100 % at both levels, prior nll 0.55
(top) and 0.26 (bottom) of the codes' per-position cross-entropy; 500 samples at a Fréchet distance of 2.8.

Variants: `tiny`, the same way in seconds at 32 px (tests). Those that swap the quantizer, at 8 bits a place all of
them: `ema`, the demo as it is; `vq`, codes trained by gradient; `cvq`; `cosine`; `fsq`; `residual`, two codes of 16 a
place. `transformer`, causal transformers in place of the PixelCNNs. `text`, the PixelCNNs told names in place of
groups: docs/texts.md. `perceptual`, a loss in the maps of a frozen net beside the squared error. What they reached is
in docs/benchmarks.md.
"""

from ml_collections import ConfigDict

# A stage in seconds, for tests.
FEW_STEPS = {
    "batch_size": 8,
    "steps": 6,
    "log_every": 2,
    "evaluate_every": 3,
    "checkpoint_every": 3,
    "pictures_every": 3,
}


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = ConfigDict(
        {
            # White, most of every drawing, is 1 and not far from 0: 1.6 dB more than in the range 0 to 1.
            "dataset": {"name": "openmoji", "image_size": 64, "range": (-1.0, 1.0), "flip": True, "views": 2},
            "autoencoder": {
                "name": "hierarchical",
                "levels": 2,
                "width": 64,
                "smooth_start": True,  # less of a grid on flat areas
                "quantizer": {"name": "ema", "codebook_size": 256, "code_dim": 64, "decay": 0.985, "revive_after": 60},
            },
            "loss_weights": {"reconstruction": 1.0, "feature": 0.25, "commitment": 1 / 16},
            # Small batches: 1,400 steps of 4 take less CPU time than 640 of 16 and give 1.2 dB more.
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
                "steps": 3600,
                "pictures_every": 1800,
                "evaluate_every": 1800,
                "checkpoint_every": 800,
            },
            "priors": {
                "top": prior(depth=128, layers=4, batch_size=16, steps=700),
                "bottom": prior(depth=96, layers=4, batch_size=8, steps=800),
            },
            "sample": {"temperature": 0.9, "top_p": 0.9, "guidance": 2.0},
        }
    )
    config.priors.top.attention_after = (2, 4)
    config.priors.top.optimizer.learning_rate = 3e-3
    if variant:
        VARIANTS[variant](config)
    return config


def prior(depth, layers, batch_size, steps):
    """A gated PixelCNN that knows the group of its drawing. Small kernels, wide layers: the most for the time."""
    return {
        "name": "pixelcnn",
        "depth": depth,
        "layers": layers,
        "horizontal": 1,
        "vertical": 1,
        "heads": 4,
        "dropout": 0.1,
        "label_condition": True,
        "optimizer": adam(4e-3),
        # Many looks for the best weights: these few drawings are soon learned by heart.
        "train": {
            "batch_size": batch_size,
            "steps": steps,
            "evaluate_every": 100,
            "pictures_every": steps,
            "checkpoint_every": 100,
        },
    }


def adam(learning_rate):
    """Of a prior that is trained for minutes."""
    return {
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup_steps": 50,
        "clip": 1.0,
        "ema_rate": 0.99,
    }


def tiny(config):
    """32 px, 16 wide, a few steps a stage."""
    small(config)
    for level in config.priors.values():
        level.update(depth=16, layers=3, attention_after=(2,))


def small(config):
    """Of any recipe of this autoencoder, whatever its priors."""
    config.dataset.image_size = 32
    config.autoencoder.width = 16
    config.autoencoder.quantizer.update(codebook_size=32, code_dim=16)
    config.sample.count = 4
    few_steps(config)


def few_steps(config):
    """Of any recipe, a stage in seconds."""
    for stage in (config, *config.priors.values()):
        stage.optimizer.warmup_steps = 2
        stage.train.update(FEW_STEPS)


def transformer(config):
    """Attention over all codes before; each place of the bottom is also told which top code lies over it."""
    for level, layers, batch_size, steps in (("top", 6, 32, 400), ("bottom", 4, 16, 400)):
        section = prior(96, layers, batch_size, steps)
        own = {"name": "transformer", "width": 128, "layers": layers, "heads": 4, "dropout": 0.1}
        shared = {name: section[name] for name in ("label_condition", "optimizer", "train")}
        config.priors[level] = ConfigDict({**own, **shared, "told_above": level == "bottom"})
        config.priors[level].optimizer.learning_rate = 2e-3


def text(config):
    """Names in place of groups; those of the split "composed" are never told, so that they can be asked for."""
    config.dataset.split = "told"
    config.text = ConfigDict({"length": 20})
    for level in config.priors.values():
        level.update(label_condition=False, text_condition=True)


def ema(config):
    """The demo as it is: codes that are moving averages of their vectors."""


def vq(config):
    """Codes that the optimizer moves, drawn to the encoder's outputs by the loss term `codebook`."""
    config.autoencoder.quantizer = ConfigDict({"name": "vq", "codebook_size": 256, "code_dim": 64, "revive_after": 60})
    config.loss_weights.codebook = 0.25


def cvq(config):
    """As `vq`, and the less a code is used, the more it becomes an encoder output."""
    clustering = {"name": "cvq", "codebook_size": 256, "code_dim": 64, "decay": 0.95, "anchor": "random"}
    config.autoencoder.quantizer = ConfigDict(clustering)
    config.loss_weights.codebook = 0.25


def cosine(config):
    """As `vq`, in 8 channels, where only the direction counts."""
    vq(config)
    config.autoencoder.quantizer.update(name="cosine", code_dim=8)


def fsq(config):
    """No table: three channels of 8, 8 and 4 values."""
    config.autoencoder.quantizer = ConfigDict({"name": "fsq", "levels": (8, 8, 4)})
    del config.loss_weights.commitment


def residual(config):
    """Two codes of 16 at each place, the second of what the first leaves over."""
    inner = {"name": "ema", "codebook_size": 16, "code_dim": 64, "decay": 0.985, "revive_after": 60}
    config.autoencoder.quantizer = ConfigDict({"name": "residual", "depth": 2, "inner": inner})


def perceptual(config):
    """Reconstructions also compared in the maps of a frozen net, which is to be made: docs/distances.md."""
    config.loss_weights.perceptual = 0.1
    config.train.update(steps=2000, pictures_every=1000, evaluate_every=1000)


VARIANTS = {
    "tiny": tiny,
    "ema": ema,
    "vq": vq,
    "cvq": cvq,
    "cosine": cosine,
    "fsq": fsq,
    "residual": residual,
    "transformer": transformer,
    "text": text,
    "perceptual": perceptual,
}
