"""28 px MNIST: a small VQ-VAE of patches, 7x7 codes of 100, and a causal transformer over them.

Papers: https://arxiv.org/abs/1711.00937 (VQ-VAE), https://arxiv.org/abs/1706.03762 (transformer).
Code: none is followed; the sizes are those of a common exercise: 10x10 codes of 32, a transformer 128 wide with 8 heads
and 3 blocks, squared error plus both terms of the codes.
Command: python launch.py --config=configs/mnist_transformer.py --workdir=runs/mnist_transformer
Time: 9 minutes on one CPU core, beside another training.
Numbers, test split (MNIST from an .npz), three seeds: mse 0.0039, PSNR 24.6 ± 0.2 dB, SSIM 0.95, usage 100 %, prior nll
1.61 = 0.50 of the per-position cross-entropy, 0.14 bits a pixel; Fréchet distance of samples 1.1 ± 0.3.
The exercise trains each stage for 20 epochs, 37,500 batches of 32; here the first has 6,000, the second 4,000. All:
--config.train.steps=0 --config.train.epochs=20
--config.priors.codes.train.steps=0 --config.priors.codes.train.epochs=20

Variants: none.
"""

from ml_collections import ConfigDict


def get_config(variant=None):
    """The config; there are no variants."""
    return ConfigDict(
        {
            "dataset": {"name": "mnist", "image_size": 28},
            "autoencoder": {
                "name": "patch_vqvae",
                "width": 32,
                "halvings": 2,
                "groups": 8,
                "quantizer": {"name": "vq", "codebook_size": 100, "code_dim": 32, "revive_after": 100},
            },
            "loss_weights": {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25},
            "optimizer": {"learning_rate": 1e-3},
            "train": {"batch_size": 32, "steps": 6000, "pictures_every": 2000, "evaluate_every": 1000},
            "priors": {
                "codes": {
                    "name": "transformer",
                    "width": 128,
                    "layers": 3,
                    "heads": 8,
                    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 200, "schedule": "cosine"},
                    "train": {"batch_size": 32, "steps": 4000, "evaluate_every": 1000, "pictures_every": 2000},
                }
            },
        }
    )
