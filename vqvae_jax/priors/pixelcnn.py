"""Gated PixelCNN as a prior over a map of tokens, https://arxiv.org/abs/1606.05328.

The stacks, the MNIST generator and the priors of the hierarchical VQ-VAE follow https://github.com/unixpickle/vq-vae-2.

    tokens → embedding → PixelCNN (layer A, layers B, attention) → both stacks → logits [B, h, w, K]
                            ↑ condition: label, mean word of the text, and the coarser maps, brought to this map's size

Where a place holds several tokens (residual quantizers) the stacks read and write places, and a small network says the
tokens of a place one after the other: the two models of https://arxiv.org/abs/2203.01941, the first one convolutional.

Legend: B batch, h w map, D depth (channels), K vocabulary, E tokens a place.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Blocks, Count, Reach, Several, Share
from vqvae_jax.networks.conv import Conv
from vqvae_jax.networks.embed import Embed, mean_word
from vqvae_jax.networks.likelihood import guide, gumbel, nll, pick_token
from vqvae_jax.priors.blocks import Block, CoarseStack, DepthLogits, MergeStacks
from vqvae_jax.priors.condition import (
    check_codes,
    check_told,
    copied,
    guided,
    kept,
    stacked,
    told_in,
    told_label,
    told_text,
)
from vqvae_jax.priors.layers import PixelAttention, PixelConvA, PixelConvB
from vqvae_jax.priors.stacks import Past, PixelCNN, at, written
from vqvae_jax.types import Array, Caption, Condition, Level, Pick, Tokens, UserError


class PixelCNNPrior(nn.Module):
    """A distribution over one level's token map, given a label, a text and the maps above it.

    Attributes:
        maps: its own: one, or one for each depth of a residual quantizer; depths share one embedding.
        above: of the coarser levels, coarse to fine, each size half of the next; () for the top.
        num_labels: labels of the data set, 0 where it has none.
        text: what its texts are like; None where none are told. Every place is told the mean of their words.
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
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one; 0: then
            neither that nor guidance does.
        text_condition, text_dropout: the same of texts.
        horizontal, vertical: how far a layer looks back, in columns and rows.
        dtype: what the layers compute in; parameters, norms, logits and the likelihood are float32.
    """

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = None
    depth: Count = 64
    layers: Several = 7
    attention_after: tuple[int, ...] = ()
    heads: Count = 8
    norm: bool = True
    dropout: Share = 0.0
    merge: str = "concat"
    output_blocks: Blocks = 0
    condition_blocks: Blocks = 2
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = False
    text_dropout: float = 0.1
    horizontal: Reach = 2
    vertical: Reach = 2
    dtype: jnp.dtype = jnp.float32
    any_order = False  # no field: an image is drawn in raster order

    def setup(self):
        if self.attention_after and self.depth % self.heads:
            raise UserError(f"depth={self.depth} does not divide among heads={self.heads} of the attention; change one")
        if beyond := [number for number in self.attention_after if not 1 <= number <= self.layers]:
            raise UserError(f"attention_after={beyond}: there are layers 1 to {self.layers}; name some of these")
        if min(self.horizontal, self.vertical) < 1:
            far = f"horizontal={self.horizontal}, vertical={self.vertical}"
            raise UserError(f"a layer looks back at least one column and one row; got {far}")
        self.fits(self.maps, self.above)
        self.embed = Embed(self.vocab_size, self.depth, dtype=self.dtype)
        self.pixel_cnn = PixelCNN(self._layers())
        if self.above:
            sizes = tuple(level.vocab_size or 0 for level in self.above)
            self.coarse_stack = CoarseStack(sizes, self.depth, self.condition_blocks, self.dtype)
        if self.label_condition:
            self.embed_label = Embed(self.num_labels + 1, self.depth, dtype=self.dtype)  # the last means "no label"
        if self.text:
            self.embed_text = Embed(self.text.vocab_size, self.depth, dtype=self.dtype)
        if self.merge == "concat":
            self.merge_stacks = MergeStacks(self.depth, self.dtype)
        self.blocks = [Block(1, self.dtype) for _ in range(self.output_blocks)]
        if self.depths == 1:
            self.to_logits = Conv(self.vocab_size, 1)
        else:
            self.mix_depths = Conv(self.depth, 1, dtype=self.dtype)
            self.depth_logits = [DepthLogits(self.vocab_size, self.dtype) for _ in range(self.depths)]

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None:
        """UserError unless all are codes, its own of one size, and each size of the coarser ones half of the next."""
        check_codes("a PixelCNN", maps, above)
        shapes = [level.shape for level in above]
        sizes = (*dict.fromkeys(shapes), maps[0].shape)
        if not all((2 * h, 2 * w) == below for (h, w), below in itertools.pairwise(sizes)):
            here, said = "x".join(map(str, maps[0].shape)), " and ".join(f"{h}x{w}" for h, w in shapes)
            raise UserError(
                f"a PixelCNN of a {here} map cannot read {len(above)} coarser maps of {said}: each size "
                "must be half of the next; the prior 'transformer' reads any"
            )

    @property
    def vocab_size(self) -> int:
        """K, codes of its own maps."""
        return self.maps[0].vocab_size or 0

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of its own maps."""
        return self.maps[0].shape

    @property
    def depths(self) -> int:
        """Tokens at each place."""
        return len(self.maps)

    def _layers(self) -> tuple[nn.Module, ...]:
        cond = self.depth if self.above or self.label_condition or self.text else 0
        far: dict[str, Any] = {"horizontal": self.horizontal, "vertical": self.vertical, "dtype": self.dtype}
        layers: list[nn.Module] = [PixelConvA(self.depth, self.depth, cond, **far)]
        for number in range(1, self.layers + 1):
            layers.append(PixelConvB(self.depth, cond, self.norm, dropout=self.dropout, **far))
            if number in self.attention_after:
                layers.append(PixelAttention(self.depth, self.heads, self.dtype))
        return tuple(layers)

    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]:
        """{"nll": float32 [B]}, in nats a token. In training it needs the stream "dropout"; `keys` is not used."""
        tokens = stacked(maps)
        return {"nll": nll(self(tokens, condition, train=train), tokens)}

    def __call__(self, tokens: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """int32 [B, h, w], of several depths [B, h, w, E] → logits float32 of that shape and K."""
        cond = self._condition(condition, tokens.shape[0], train)
        embedded = self.embed(tokens.reshape(*tokens.shape[:3], self.depths))
        x = self._merged(*self.pixel_cnn(self._mixed(embedded), cond, train))
        every = [self._logits(x, embedded, depth) for depth in range(self.depths)]
        return jnp.stack(every, axis=3).reshape(*tokens.shape, self.vocab_size)

    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens:
        """New maps, one of each depth a key, int32 [B, h, w], place by place; to be jitted with `pick` static.

        Where `keep`, bool [B, h, w] a map, is True, the token is that of `known`.
        """
        count = len(keys)
        condition, twice = guided(self, condition, pick, count)
        cond = self._condition(condition, count * (1 + twice), False)
        tokens = self._fill(keys, pick, self.pixel_cnn.biases(cond), twice, kept(known, keep))
        return tuple(jnp.moveaxis(tokens, -1, 0))

    def _fill(self, keys: Array, pick: Pick, biases: list, twice: bool, given: Any) -> Array:
        """The loop over rows and pixels: int32 [B, h, w, E]."""
        prior, variables = self.unbind()  # Linen's modules cannot be called inside a loop, their pure form can
        (height, width), depths, copies, count = self.shape, self.depths, 1 + twice, len(keys)

        def one_row(r, carry):
            tokens, above, left = carry
            vertical, across, above = prior.apply(variables, above, biases, r, method="_row")
            noise = gumbel(jax.vmap(jax.random.fold_in, (0, None))(keys, r), (width, depths, self.vocab_size))

            def one_pixel(c, carry):
                row, left = carry
                x, left = prior.apply(variables, vertical, left, across, r, c, method="_pixel")
                new = one_place(x, at(noise, c, 1)[:, 0], (r * width + c) * depths)
                row = lax.dynamic_update_slice_in_dim(row, new[:, None, None], c, axis=2)
                left = prior.apply(variables, left, jnp.tile(new, (copies, 1)), c, method="_seen_pixel")
                return row, left

            row, left = lax.fori_loop(0, width, one_pixel, (jnp.zeros((count, 1, width, depths), jnp.int32), left))
            tokens = lax.dynamic_update_slice_in_dim(tokens, row, r, axis=1)
            above = prior.apply(variables, above, jnp.tile(row, (copies, 1, 1, 1)), method="_seen_row")
            return tokens, above, left

        def one_place(x, noise, position):
            new = jnp.zeros((count, depths), jnp.int32)
            for depth in range(depths):
                logits = prior.apply(variables, x, jnp.tile(new, (copies, 1)), depth, method="_place_logits")
                one = pick_token(noise[:, depth], guide(logits, twice, pick.guidance), pick)
                new = new.at[:, depth].set(copied(one, given, position + depth))
            return new

        above, left = prior.apply(variables, count * copies, method="_start")
        tokens = jnp.zeros((count, height, width, depths), jnp.int32)
        return lax.fori_loop(0, height, one_row, (tokens, above, left))[0]

    def _start(self, batch: int):
        return self.pixel_cnn.start(batch, *self.shape)

    def _row(self, above, biases, r):
        vertical, across, above = self.pixel_cnn.row(above, biases, r)
        return self._of_vertical(vertical), across, above

    def _pixel(self, vertical: Array, left, across, r, c) -> tuple[Array, list[Past]]:
        horizontal, left = self.pixel_cnn.pixel(left, across, r, c, self.shape[1])
        return self._after_merge(at(vertical, c, 2) + self._of_horizontal(horizontal)), left

    def _place_logits(self, x: Array, tokens: Array, depth: int) -> Array:
        """What the stacks say of one place [B, 1, 1, D], the tokens found there so far [B, E] → logits [B, K]."""
        embedded = self.embed(tokens[:, None, None]) if depth else jnp.zeros((len(x), 1, 1, 0, self.depth), x.dtype)
        return self._logits(x, embedded, depth)[:, 0, 0]

    def _seen_row(self, above: list[Past], row: Array) -> list[Past]:
        """Layer A looks back on the tokens themselves: the new row is among its rows."""
        rows = jnp.concatenate([above[0]["seen"], self._mixed(self.embed(row))], axis=1)[:, 1:]
        return [{"seen": rows}, *above[1:]]

    def _seen_pixel(self, left: list[Past], tokens: Array, c: Array) -> list[Past]:
        new = self._mixed(self.embed(tokens[:, None, None]))
        return [written(left[0], new[:, 0], c + self.horizontal), *left[1:]]

    def _mixed(self, embedded: Array) -> Array:
        """The tokens of a place as one vector: [B, h, w, E, D] → [B, h, w, D]."""
        flat = embedded.reshape(*embedded.shape[:3], -1)
        return flat if self.depths == 1 else self.mix_depths(flat)

    def _merged(self, vertical: Array, horizontal: Array) -> Array:
        """Both stacks as one, [B, h, w, D]."""
        return self._after_merge(self._of_vertical(vertical) + self._of_horizontal(horizontal))

    def _of_vertical(self, x: Array) -> Array:
        """What the vertical stack adds to both stacks as one: cached sampling needs it once a row."""
        return x if self.merge == "sum" else self.merge_stacks(x, half=0)

    def _of_horizontal(self, x: Array) -> Array:
        return x if self.merge == "sum" else self.merge_stacks(x, half=1)

    def _after_merge(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x

    def _logits(self, x: Array, embedded: Array, depth: int) -> Array:
        """Of one depth, told of the tokens of those before it: [B, h, w, D], [B, h, w, E, D] → [B, h, w, K]."""
        if self.depths == 1:
            return self.to_logits(x)
        return self.depth_logits[depth](x, embedded[:, :, :, :depth])

    def _condition(self, condition: Condition, count: int, train: bool) -> Array | None:
        """Label, text and coarser maps as one condition: [B, D], [B, h, w, D], or None."""
        if not train:
            check_told(self, Pick(), told_in(condition))
        told: list[Array] = []
        if self.label_condition:
            told.append(self.embed_label(told_label(self, condition, count, train)))
        if self.text:
            text = told_text(self, condition, count, train)
            told.append(mean_word(text, self.embed_text(text)))
        if self.above:
            told = [self.coarse_stack(condition.coarse), *(vector[:, None, None] for vector in told)]
        return functools.reduce(jnp.add, told) if told else None
