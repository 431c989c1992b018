"""What the PixelCNN prior has beside its stacks: residual blocks, the coarser maps, several tokens a place."""

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.conv import Conv, ConvTranspose, uniform
from vqvae_jax.networks.embed import Embed
from vqvae_jax.networks.fast import conv
from vqvae_jax.priors.layers import ChannelNorm
from vqvae_jax.types import Array


class Block(nn.Module):
    """x + norm(conv(relu(conv(relu(x))))), the residual block of the reference's output and condition stacks."""

    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        side = (self.size // 2, self.size // 2)
        h = Conv(x.shape[-1], self.size, 1, side, self.dtype, name="conv1")(nn.relu(x))
        h = Conv(x.shape[-1], self.size, 1, side, self.dtype, name="conv2")(nn.relu(h))
        return x + ChannelNorm(self.dtype, name="norm")(h)


class MergeStacks(nn.Module):
    """A 1x1 convolution of both stacks side by side, each half of it by itself: the sum of both is the convolution.

    Its parameters are those of one convolution: kernel [1, 1, 2D, D], the vertical stack first, and one bias.
    """

    depth: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, half: int) -> Array:
        kernel = self.param("kernel", uniform(2 * self.depth), (1, 1, 2 * self.depth, self.depth))
        bias = self.param("bias", uniform(2 * self.depth), (self.depth,))
        out = conv(x.astype(self.dtype), jnp.split(kernel.astype(self.dtype), 2, axis=2)[half])
        return out if half else out + bias.astype(self.dtype)[None, None, None]


class CoarseStack(nn.Module):
    """The coarser token maps, coarse to fine, → a spatial condition twice the size of the finest of them.

    Each map is embedded and added to what comes from above. After the last map of a size, `blocks` residual blocks and
    a doubling.
    """

    vocab_sizes: tuple[int, ...]
    depth: int
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, coarse: tuple[Array, ...]) -> Array:
        x = jnp.zeros((), self.dtype)
        for i, (size, tokens) in enumerate(zip(self.vocab_sizes, coarse, strict=True)):
            x = x + Embed(size, self.depth, dtype=self.dtype, name=f"embed{i}")(tokens)
            if i + 1 < len(coarse) and coarse[i + 1].shape == tokens.shape:
                continue  # depths of one level
            for j in range(self.blocks):
                x = Block(3, self.dtype, name=f"block{i}_{j}")(x)
            x = ConvTranspose(self.depth, self.dtype, name=f"up{i}")(x)
        return x


class DepthLogits(nn.Module):
    """What the stacks say of a place, and the tokens that are already there, → logits of its next depth.

    x + MLP of both, then a 1x1 convolution: the second, small model of https://arxiv.org/abs/2203.01941, section 3.2.
    """

    vocab_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, there: Array) -> Array:
        """[B, h, w, D] and the embedded tokens of the depths before, [B, h, w, depths, D] → float32 [B, h, w, K]."""
        flat = there.reshape(*there.shape[:3], -1)  # of no width before the first depth
        h = nn.relu(Conv(x.shape[-1], 1, dtype=self.dtype, name="conv1")(jnp.concatenate([x, flat], axis=-1)))
        x = x + Conv(x.shape[-1], 1, dtype=self.dtype, name="conv2")(h)
        return Conv(self.vocab_size, 1, name="to_logits")(nn.relu(x))
