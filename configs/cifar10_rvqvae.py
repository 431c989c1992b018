"""32 px CIFAR-10, residual codes: 8x8 places, at each 4 codes of 256, and a causal transformer over all of them.

Papers: https://arxiv.org/abs/2203.01941 (residual quantization), https://arxiv.org/abs/1706.03762 (transformer).
Each depth codes what the depths before it have left over; an image can be decoded from the first depths alone. In one
training example of four a random number of depths is left out, so that those pictures are good too.
Normalisation and loss: as cifar10_vqvae.py. The codes are moving averages: they have no `codebook` term.
Command: python launch.py --config=configs/cifar10_rvqvae.py --workdir=runs/cifar10_rvqvae
Numbers, `subset`, test split: PSNR 25.8 dB, SSIM 0.85, usage 100 % at every depth; prior nll 4.89 = 0.92 of the
per-position cross-entropy after two epochs. All of CIFAR-10: not run.

Variants: `subset`, 4,068 images from an .npz, see cifar10_vqvae.py.
"""

from configs import cifar10_transformer


def get_config(variant=None):
    """The config, or one of VARIANTS."""
    config = cifar10_transformer.get_config()
    config.autoencoder.quantizer = {
        "name": "residual",
        "depth": 4,
        "dropout": 0.25,
        "inner": {"name": "ema", "codebook_size": 256, "code_dim": 64},
    }
    config.loss_weights = {"reconstruction": 1.0, "commitment": 0.25}
    config.priors.codes.train.batch_size = 64
    if variant:
        VARIANTS[variant](config)
    return config


def subset(config):
    """The part of CIFAR-10 that lies in an .npz; a prior that does not outgrow it."""
    cifar10_transformer.subset(config)
    config.train.update(batch_size=128, epochs=30)
    config.priors.codes.train.epochs = 2


VARIANTS = {"subset": subset}
