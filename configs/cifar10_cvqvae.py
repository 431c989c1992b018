"""32 px CIFAR-10: CVQ-VAE, 8x8 codes of 512, drawn to encoder outputs the less they are used; a PixelCNN.

Paper: https://arxiv.org/abs/2307.15139, section 4.1 and its published training: K 512, D 64, width 128, two residual
blocks of 32, batch 1024, Adam 3e-4, 500 epochs, the closest encoding as anchor, pixels in [-1, 1], reconstruction
divided by the variance of the images in [0, 1], 0.063: a weight of 16. Codes and anchors are found by
direction, all else is of raw vectors, as there (equal to the authors' code: tests/quantizers/test_cvq.py).
Command: python launch.py --config=configs/cifar10_cvqvae.py --workdir=runs/cifar10_cvqvae
Numbers, `subset`, test split: PSNR 23.1 dB, SSIM 0.77, usage 100 %, prior nll 4.79 = 0.82 of the per-position
cross-entropy; samples are textures; 4 minutes on one CPU core, beside another training. The whole: not run.

Variants: `subset`, 4,068 images from an .npz, see cifar10_vqvae.py: 5 epochs of batch 16, Adam 1e-3; 2 of the prior. In
15 epochs of 128 it had 22.2 dB, in twice the time.
In so few steps the paper's memory of usage, decay 0.99, would let no code move that was ever used (0.9 does), and raw
vectors run away from their codes (they do not on the sphere, nor as far with reconstruction weighted 1):
docs/codebooks.md, "CVQ beside EMA".
"""

from configs import cifar10_vqvae


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = cifar10_vqvae.get_config()
    config.dataset.flip = False
    config.dataset.views = 1
    config.autoencoder.quantizer = {"name": "cvq", "codebook_size": 512, "code_dim": 64, "distance": "cos"}
    config.loss_weights.reconstruction = 1 / 0.063
    config.optimizer = {"learning_rate": 3e-4}
    config.train.update(batch_size=1024, epochs=500, pictures_every=2000)
    if variant:
        VARIANTS[variant](config)
    return config


def subset(config):
    """The part of CIFAR-10 that lies in an .npz, with the schedule and the prior of cifar10_vqvae.py:subset."""
    cifar10_vqvae.subset(config)
    config.dataset.update(flip=True, views=2)
    config.optimizer = {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 100}
    config.autoencoder.quantizer.update(distance="sphere", decay=0.9)
    config.loss_weights.reconstruction = 1.0
    config.train.update(epochs=5, pictures_every=500)
    config.priors.codes.train.epochs = 2


VARIANTS = {"subset": subset}
