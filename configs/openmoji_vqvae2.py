"""The demo's drawings and priors with the paper's VQ-VAE-2, whose bottom encoder is told of the top.

Papers: https://arxiv.org/abs/1906.00446 (VQ-VAE-2), https://arxiv.org/abs/1606.05328 (gated PixelCNN).
Loss and range as https://github.com/rosinality/vq-vae-2-pytorch, but for the top's commitment; batches, steps and rates
are those that the demo had when this was measured (22.8 dB then, 0.15 bits a pixel). Smaller ones were not tried here.
Command: python launch.py --config=configs/openmoji_vqvae2.py --workdir=runs/openmoji_vqvae2
Time: 12 minutes on two CPU cores beside other jobs (about 8.5 minutes of CPU time; the demo 9).
Numbers, on drawings whose stems were not seen: PSNR 22.7 dB, usage 100 % at both levels, prior nll 0.37 (top) and 0.47
(bottom) of the codes' per-position cross-entropy, 0.20 bits a pixel.
In so few steps the decoder has learned to read almost all from the bottom: with the top codes of another image it loses
0.02 dB, and the top alone gives no picture.

Variants: none.
"""

from ml_collections import ConfigDict

from configs import openmoji_hierarchical


def get_config(variant=None):
    """The config; there are no variants."""
    config = openmoji_hierarchical.get_config()
    config.autoencoder = ConfigDict(
        {
            "name": "vqvae2",
            "width": 96,
            "residual_blocks": 2,
            "residual_width": 32,
            "quantizer": {"name": "ema", "codebook_size": 256, "code_dim": 64, "decay": 0.95, "revive_after": 20},
        }
    )
    config.optimizer.update(warmup_steps=50, b2=0.999, ema_rate=0.0)
    config.train.update(batch_size=16, steps=640, pictures_every=320, evaluate_every=500, checkpoint_every=200)
    config.priors = {
        "top": openmoji_hierarchical.prior(depth=96, layers=6, batch_size=32, steps=280),
        "bottom": openmoji_hierarchical.prior(depth=96, layers=4, batch_size=16, steps=220),
    }
    config.priors.top.attention_after = (3, 6)
    config.sample = {"temperature": 0.8, "guidance": 2.0}
    # The top's encodings start small: a weaker pull to the codes, so that they can grow.
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "commitment": 0.25, "commitment/top": 0.01})
    return config
