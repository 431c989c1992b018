"""The demo's drawings and priors with the paper's VQ-VAE-2, whose bottom encoder is told of the top.

Papers: https://arxiv.org/abs/1906.00446 (VQ-VAE-2), https://arxiv.org/abs/1606.05328 (gated PixelCNN).
Loss and range as https://github.com/rosinality/vq-vae-2-pytorch, but for the top's commitment; batches, steps, rates
and priors are the demo's.
Command: python launch.py --config=configs/openmoji_vqvae2.py --workdir=runs/openmoji_vqvae2
Time: 11 minutes on one CPU core, beside another training.
Numbers, on drawings whose stems were not seen: PSNR 25.3 dB, SSIM 0.93, usage 100 % at both levels, prior nll 0.56
(top) and 0.43 (bottom) of the codes' per-position cross-entropy, 0.21 bits a pixel; 500 samples at a Fréchet distance
of 3.3. The top alone gives no picture. In 640 steps of 16 and without averaged weights, as the demo was once trained,
it had 22.7 dB, and the decoder did not read the top.

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
            "quantizer": config.autoencoder.quantizer,
        }
    )
    # The top's encodings start small: a weaker pull to the codes, so that they can grow.
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "commitment": 0.25, "commitment/top": 0.01})
    return config
