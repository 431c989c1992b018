"""32 px CIFAR-10: the VQ-VAE of cifar10_vqvae.py, 8x8 codes of 512, and a causal transformer over them.

Papers: https://arxiv.org/abs/1711.00937 (VQ-VAE), https://arxiv.org/abs/1706.03762 (transformer).
Command: python launch.py --config=configs/cifar10_transformer.py --workdir=runs/cifar10_transformer
Where cifar10_vqvae.py was trained already, its autoencoder is taken as it is with
--config.train.init_from=runs/cifar10_vqvae --config.train.epochs=0
Numbers, `subset`, test split, on the codes of cifar10_vqvae.py:subset: prior nll 4.92 = 0.81 of the per-position
cross-entropy; cifar10_vqvae.py's PixelCNN has 5.21 there. All of CIFAR-10: not run.

Variants: `subset`, 4,068 images from an .npz, see cifar10_vqvae.py.
"""

from configs import cifar10_vqvae


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = cifar10_vqvae.get_config()
    config.priors.codes = {
        "name": "transformer",
        "width": 384,
        "layers": 8,
        "heads": 8,
        "dropout": 0.1,
        "label_condition": True,
        "optimizer": config.priors.codes.optimizer.copy_and_resolve_references(),
        "train": {"batch_size": 128, "epochs": 50},
    }
    config.priors.codes.optimizer.learning_rate = 5e-4
    if variant:
        VARIANTS[variant](config)
    return config


def subset(config):
    """The part of CIFAR-10 that lies in an .npz; a small prior, much dropout, few passes."""
    cifar10_vqvae.few_images(config)
    prior = config.priors.codes
    prior.update(width=128, layers=4, dropout=0.2)
    prior.optimizer.update(learning_rate=1e-3, ema_rate=0.99)
    prior.train.update(batch_size=32, epochs=6)


VARIANTS = {"subset": subset}
