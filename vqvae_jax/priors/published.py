"""The priors of https://github.com/unixpickle/vq-vae-2, by their names there: PixelCNNs of other defaults."""

from vqvae_jax.limits import Blocks, Count, Several
from vqvae_jax.priors.pixelcnn import PixelCNNPrior


class MNISTGenerator(PixelCNNPrior):
    """The reference's prior over the 7x7 codes of MNIST."""

    depth: Count = 64
    layers: Several = 7
    merge: str = "sum"


class TopPrior(PixelCNNPrior):
    """The reference's prior over the top map, 32x32 at 256 pixels."""

    depth: Count = 128
    layers: Several = 19
    attention_after: tuple[int, ...] = (4, 9, 14, 19)
    heads: Count = 2
    output_blocks: Blocks = 10


class BottomPrior(PixelCNNPrior):
    """The reference's prior over the bottom map given the top, 64x64 at 256 pixels."""

    depth: Count = 128
    layers: Several = 19
    condition_blocks: Blocks = 9
