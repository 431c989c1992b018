"""Gated PixelCNN as a prior over a map of tokens, https://arxiv.org/abs/1606.05328.

The stacks, the MNIST generator and the priors of the hierarchical VQ-VAE follow https://github.com/unixpickle/vq-vae-2.

    tokens → embedding → PixelCNN (layer A, layers B, attention) → both stacks → logits [B, h, w, K]
                            ↑ condition: label, and the coarser maps, brought to this map's size

Legend: B batch, h w map, D depth, K vocabulary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.networks.conv import Conv, ConvTranspose
from vqvae_jax.networks.likelihood import guide, pick_token
from vqvae_jax.priors.condition import copied, kept, labels, with_and_without_label
from vqvae_jax.priors.layers import ChannelNorm, PixelAttention, PixelConvA, PixelConvB
from vqvae_jax.types import Array, Condition, Pick, UserError

Past = dict[str, Any]  # what cached sampling remembers of the rows and pixels before


class PixelCNN(nn.Module):
    """A stack of layers: a PixelConvA, then any PixelConvB and PixelAttention.

    `__call__` takes the whole map. For cached sampling `start`, `row` and `pixel` give the same numbers step by step:
    the vertical stack once a row, the horizontal one once a pixel.
    """

    layers: tuple[nn.Module, ...]

    def __call__(self, x: Array, cond: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        """[B, h, w, depth_in] and a condition [B, M] or [B, h, w, M] → vertical and horizontal stack [B, h, w, D]."""
        vertical, horizontal = self.layers[0](x, cond)
        for layer in self.layers[1:]:
            if isinstance(layer, PixelAttention):
                vertical, horizontal = layer(vertical, horizontal)
            else:
                vertical, horizontal = layer(vertical, horizontal, cond, train)
        return vertical, horizontal

    def biases(self, cond: Array | None) -> list[Array | None]:
        """What the condition adds in each layer, computed once a sample."""
        return [None if isinstance(layer, PixelAttention) else layer.bias(cond) for layer in self.layers]

    def start(self, batch: int, height: int, width: int) -> tuple[list[Past], list[Past]]:
        """The empty past of the vertical and of the horizontal stack, one entry a layer."""
        return (
            [self._empty(layer, (batch, layer_rows(layer), width), height * width) for layer in self.layers],
            [self._empty(layer, (batch, 1, layer_columns(layer)), height * width) for layer in self.layers],
        )

    def _empty(self, layer: nn.Module, window: tuple[int, int, int], length: int) -> Past:
        if isinstance(layer, PixelAttention):
            cache = jnp.zeros((window[0], length, layer.heads, layer.depth // layer.heads), layer.dtype)
            return {"keys": cache, "values": cache}
        return {"window": jnp.zeros((*window, layer.depth_in), layer.dtype)}

    def row(self, past: list[Past], biases: list, r: Array) -> tuple[Array, list[Array | None], list[Past]]:
        """Row r of the vertical stack: its output [B, 1, w, D], what each layer gives the other stack, the past."""
        x: Any = None
        across: list[Array | None] = []
        after: list[Past] = []
        for layer, before, bias in zip(self.layers, past, biases, strict=True):
            if isinstance(layer, PixelAttention):
                x, keys, values = layer.part(x, before["keys"], before["values"], r * x.shape[2])
                across.append(None)
                after.append({"keys": keys, "values": values})
                continue
            window = before["window"] if x is None else jnp.concatenate([before["window"], x], axis=1)
            x, to_horizontal = layer.row(window, at(bias, r, 1))
            across.append(to_horizontal)
            after.append({"window": window[:, -layer_rows(layer) :]})
        return x, across, after

    def pixel(self, past: list[Past], across: list, r: Array, c: Array, width: int) -> tuple[Array, list[Past]]:
        """Pixel (r, c) of the horizontal stack: its output [B, 1, 1, D], and the past after it."""
        x: Any = None
        after: list[Past] = []
        for layer, before, to_horizontal in zip(self.layers, past, across, strict=True):
            if isinstance(layer, PixelAttention):
                x, keys, values = layer.part(x, before["keys"], before["values"], r * width + c)
                after.append({"keys": keys, "values": values})
                continue
            window = before["window"] if x is None else jnp.concatenate([before["window"], x], axis=2)
            x = layer.pixel(window, at(to_horizontal, c, 2))
            after.append({"window": window[:, :, -layer_columns(layer) :]})
        return x, after


def layer_rows(layer: nn.Module) -> int:
    """Rows that a layer looks back on."""
    return getattr(layer, "vertical", 0)


def layer_columns(layer: nn.Module) -> int:
    """Columns that a layer looks back on."""
    return getattr(layer, "horizontal", 0)


def at(x: Array, index: Array, axis: int) -> Array:
    """One slice along an axis, kept as an axis of size 1; all of it where the size is 1 already."""
    return x if x.shape[axis] == 1 else lax.dynamic_slice_in_dim(x, index, 1, axis)


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


class CoarseStack(nn.Module):
    """The coarser token maps, coarse to fine, → a spatial condition twice the size of the finest of them.

    Each map is embedded and added to what comes from above, passes `blocks` residual blocks, and is doubled.
    """

    vocab_sizes: tuple[int, ...]
    depth: int
    blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, coarse: tuple[Array, ...]) -> Array:
        x = jnp.zeros((), self.dtype)
        for i, (size, tokens) in enumerate(zip(self.vocab_sizes, coarse, strict=True)):
            x = x + embedding(size, self.depth, self.dtype, f"embed{i}")(tokens)
            for j in range(self.blocks):
                x = Block(3, self.dtype, name=f"block{i}_{j}")(x)
            x = ConvTranspose(self.depth, self.dtype, name=f"up{i}")(x)
        return x


def embedding(size: int, depth: int, dtype: jnp.dtype, name: str | None = None) -> nn.Embed:
    """Integers → vectors, initialised N(0, 1) as PyTorch's."""
    return nn.Embed(size, depth, dtype=dtype, embedding_init=nn.initializers.normal(1.0), name=name)


class PixelCNNPrior(nn.Module):
    """A distribution over one level's token map, given a label and the maps above it.

    Attributes:
        vocab_size: codes of this level, K.
        shape: (h, w) of the map.
        coarse_sizes: codes of each map above, coarse to fine; () for the top.
        num_labels: labels of the data set, 0 where it has none.
        depth: channels of both stacks.
        layers: layers B, after the one layer A.
        attention_after: numbers of the layers B that attention follows, counted from 1.
        heads: of the attention.
        norm: channel norm in the layers B.
        dropout: share of gated units dropped in training.
        merge: how both stacks become one: "concat" and a 1x1 convolution, or their "sum".
        output_blocks: residual 1x1 blocks before the logits.
        condition_blocks: residual 3x3 blocks for each coarser map.
        label_condition: whether the label is given.
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one.
        horizontal, vertical: how far a layer looks back, in columns and rows.
        dtype: what the layers compute in; parameters, norms and the likelihood are float32.
    """

    vocab_size: int
    shape: tuple[int, int]
    coarse_sizes: tuple[int, ...] = ()
    num_labels: int = 0
    depth: int = 64
    layers: int = 7
    attention_after: tuple[int, ...] = ()
    heads: int = 8
    norm: bool = True
    dropout: float = 0.0
    merge: str = "concat"
    output_blocks: int = 0
    condition_blocks: int = 2
    label_condition: bool = False
    label_dropout: float = 0.1
    horizontal: int = 2
    vertical: int = 2
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.attention_after and self.depth % self.heads:
            raise UserError(f"depth={self.depth} does not divide among heads={self.heads} of the attention; change one")
        self.embed = embedding(self.vocab_size, self.depth, self.dtype)
        self.pixel_cnn = PixelCNN(self._layers())
        if self.coarse_sizes:
            self.coarse_stack = CoarseStack(self.coarse_sizes, self.depth, self.condition_blocks, self.dtype)
        if self.label_condition:
            self.embed_label = embedding(self.num_labels + 1, self.depth, self.dtype)  # the last means "no label"
        if self.merge == "concat":
            self.merge_stacks = Conv(self.depth, 1, dtype=self.dtype)
        self.blocks = [Block(1, self.dtype) for _ in range(self.output_blocks)]
        self.to_logits = Conv(self.vocab_size, 1, dtype=self.dtype)

    def _layers(self) -> tuple[nn.Module, ...]:
        cond = self.depth if self.coarse_sizes or self.label_condition else 0
        far: dict[str, Any] = {"horizontal": self.horizontal, "vertical": self.vertical, "dtype": self.dtype}
        layers: list[nn.Module] = [PixelConvA(self.depth, self.depth, cond, **far)]
        for number in range(1, self.layers + 1):
            layers.append(PixelConvB(self.depth, cond, self.norm, dropout=self.dropout, **far))
            if number in self.attention_after:
                layers.append(PixelAttention(self.depth, self.heads, self.dtype))
        return tuple(layers)

    def __call__(self, tokens: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """int32 [B, h, w] → logits float32 [B, h, w, K]. In training it needs the rng stream "dropout"."""
        cond = self._condition(condition, tokens.shape[0], train)
        return self._logits(*self.pixel_cnn(self.embed(tokens), cond, train))

    def sample(
        self,
        key: Array,
        count: int,
        condition: Condition,
        pick: Pick,
        known: Array | None = None,
        keep: Array | None = None,
    ) -> Array:
        """New maps, int32 [count, h, w], pixel by pixel; to be jitted with `count` and `pick` static.

        Where `keep`, bool [h, w] or [count, h, w], is True, the token is that of `known`.
        """
        guided = self.label_condition and pick.guidance != 1
        if guided:
            condition = with_and_without_label(condition, count, self.num_labels)
        cond = self._condition(condition, count * (1 + guided), False)
        given = kept(known, keep, (count, *self.shape))
        return self._fill(key, count, pick, self.pixel_cnn.biases(cond), guided, given)

    def _fill(self, key: Array, count: int, pick: Pick, biases: list, guided: bool, given: Any) -> Array:
        """The loop over rows and pixels."""
        prior, variables = self.unbind()  # Linen's modules cannot be called inside a loop, their pure form can
        height, width = self.shape
        copies = 1 + guided

        def one_row(r, carry):
            tokens, above, left = carry
            vertical, across, above = prior.apply(variables, above, biases, r, method="_row")

            def one_pixel(c, carry):
                row, left = carry
                logits, left = prior.apply(variables, vertical, left, across, r, c, method="_pixel")
                new = pick_token(jax.random.fold_in(key, r * width + c), guide(logits, guided, pick.guidance), pick)
                new = copied(new, given, r * width + c)
                row = lax.dynamic_update_slice_in_dim(row, new[:, None, None], c, axis=2)
                left = prior.apply(variables, left, jnp.tile(new, copies), method="_seen_pixel")
                return row, left

            row, left = lax.fori_loop(0, width, one_pixel, (jnp.zeros((count, 1, width), jnp.int32), left))
            tokens = lax.dynamic_update_slice_in_dim(tokens, row, r, axis=1)
            above = prior.apply(variables, above, jnp.tile(row, (copies, 1, 1)), method="_seen_row")
            return tokens, above, fresh_windows(left)

        above, left = prior.apply(variables, count * copies, method="_start")
        tokens = jnp.zeros((count, height, width), jnp.int32)
        return lax.fori_loop(0, height, one_row, (tokens, above, left))[0]

    def _start(self, batch: int):
        return self.pixel_cnn.start(batch, *self.shape)

    def _row(self, above, biases, r):
        return self.pixel_cnn.row(above, biases, r)

    def _pixel(self, vertical: Array, left, across, r, c) -> tuple[Array, list[Past]]:
        horizontal, left = self.pixel_cnn.pixel(left, across, r, c, self.shape[1])
        return self._logits(at(vertical, c, 2), horizontal)[:, 0, 0], left

    def _seen_row(self, above: list[Past], row: Array) -> list[Past]:
        """Layer A looks back on the tokens themselves: the new row enters its window."""
        window = jnp.concatenate([above[0]["window"], self.embed(row)], axis=1)[:, 1:]
        return [{"window": window}, *above[1:]]

    def _seen_pixel(self, left: list[Past], token: Array) -> list[Past]:
        window = jnp.concatenate([left[0]["window"], self.embed(token)[:, None, None]], axis=2)[:, :, 1:]
        return [{"window": window}, *left[1:]]

    def _logits(self, vertical: Array, horizontal: Array) -> Array:
        if self.merge == "concat":
            x = self.merge_stacks(jnp.concatenate([vertical, horizontal], axis=-1))
        else:
            x = vertical + horizontal
        for block in self.blocks:
            x = block(x)
        return self.to_logits(x).astype(jnp.float32)

    def _condition(self, condition: Condition, count: int, train: bool) -> Array | None:
        """Label and coarser maps as one condition: [B, D], [B, h, w, D], or None."""
        cond = self.coarse_stack(condition.coarse) if self.coarse_sizes else None
        if not self.label_condition:
            return cond
        label = labels(condition, count, self.num_labels)
        if train and self.label_dropout:
            hidden = jax.random.bernoulli(self.make_rng("dropout"), self.label_dropout, label.shape)
            label = jnp.where(hidden, self.num_labels, label)
        embedded = self.embed_label(label)
        return embedded if cond is None else cond + embedded[:, None, None]


def fresh_windows(left: list[Past]) -> list[Past]:
    """The horizontal past at the start of a row: empty windows, the attention's caches kept."""
    return [{k: jnp.zeros_like(v) if k == "window" else v for k, v in past.items()} for past in left]


class MNISTGenerator(PixelCNNPrior):
    """The reference's prior over the 7x7 codes of MNIST."""

    depth: int = 64
    layers: int = 7
    merge: str = "sum"


class TopPrior(PixelCNNPrior):
    """The reference's prior over the top map, 32x32 at 256 pixels."""

    depth: int = 128
    layers: int = 19
    attention_after: tuple[int, ...] = (4, 9, 14, 19)
    heads: int = 2
    output_blocks: int = 10


class BottomPrior(PixelCNNPrior):
    """The reference's prior over the bottom map given the top, 64x64 at 256 pixels."""

    depth: int = 128
    layers: int = 19
    condition_blocks: int = 9
