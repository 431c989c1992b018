"""A causal transformer as a prior over a map of tokens, https://arxiv.org/abs/1706.03762, its blocks as in GPT-2.

    text ───────────────────────────────────────────────┐
    coarser maps, coarse to fine, each in raster order ─┤
    start (+ label), token 0, token 1, …, token T - 2 ──┴→ embed, + place → blocks → norm → logits of token 0, …, T - 1

The label's vector is added to the start token. A text stands before the maps, see `prefix`; with `foretell_text` this
is the joint model of https://arxiv.org/abs/2102.12092, whose loss is 7/8 nll + 1/8 text. Where a place holds several
tokens (residual quantizers), they follow each other, depth by depth, then the next place: the order of
https://arxiv.org/abs/2203.01941. That paper has one transformer over places and a second over depths; here one flat
transformer reads all.

Parameters as in GPT-2: normal of 0.02, biases 0, and what is added to the residual stream 1/√(2 · layers) of that.

Legend: B batch, h w map, S positions of a text, P coarse tokens, T own tokens (h · w · depths), W width, K vocabulary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.limits import Count, Several, Share
from vqvae_jax.networks.attention import new_cache
from vqvae_jax.networks.dense import STD, Dense
from vqvae_jax.networks.embed import Embed, mean_word
from vqvae_jax.networks.likelihood import guide, gumbel, nll, pick_token
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
from vqvae_jax.priors.gpt import Block, Past
from vqvae_jax.priors.layers import ChannelNorm
from vqvae_jax.priors.prefix import Prefix
from vqvae_jax.priors.raster import raster
from vqvae_jax.types import Array, Caption, Condition, Level, Pick, Tokens, UserError


class TransformerPrior(nn.Module):
    """A distribution over one level's tokens, given a label, a text and the maps above it.

    Attributes:
        maps: its own: one, or one for each depth of a residual quantizer; depths share one embedding. The start token
            is index K of it: no code, and never drawn.
        above: of the coarser levels, coarse to fine, of any size; () for the top.
        num_labels: labels of the data set, 0 where it has none.
        text: what its texts are like; None where none are told.
        told_above: whether each place is also told, beside the whole maps, which coarse tokens lie over it. Not in the
            papers: there the transformer has to find them by attention.
        width: of the residual stream.
        layers: blocks.
        heads: of the attention.
        dropout: share of what attention and MLP give that is dropped in training.
        tied: logits by the embedding's transpose, not by a matrix of their own.
        label_condition: whether the label is given.
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one; 0: then
            neither that nor guidance does.
        text_condition, text_dropout: the same of texts.
        foretell_text: whether texts are foretold as well: the loss term "text".
        pooled_text: whether each place is also told the mean of the text's words, by a table of its own: a shorter way
            than attention. Not in the paper.
        dtype: what the blocks compute in; parameters, norms, softmax and logits are float32.
    """

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = None
    told_above: bool = False
    width: Count = 128
    layers: Several = 3
    heads: Count = 8
    dropout: Share = 0.0
    tied: bool = False
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = False
    text_dropout: float = 0.1
    foretell_text: bool = False
    pooled_text: bool = False
    dtype: jnp.dtype = jnp.float32
    any_order = False  # no field: an image is drawn in raster order

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None:
        """UserError unless all are codes, and its own of one size."""
        check_codes("a transformer over tokens", maps, above)

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

    @property
    def length(self) -> int:
        """T, how many tokens its own maps hold together."""
        return self.depths * self.shape[0] * self.shape[1]

    def setup(self):
        self.fits(self.maps, self.above)
        if self.width % self.heads:
            raise UserError(f"width={self.width} does not divide among heads={self.heads}; change one")
        if (self.foretell_text or self.pooled_text) and not self.text:
            raise UserError("foretell_text and pooled_text are of texts: text_condition=true, or leave them off")
        width, dtype = self.width, self.dtype
        embed = lambda size: Embed(size, width, STD, dtype)  # noqa: E731
        self.embed = embed(self.vocab_size + 1)  # the last is the start token
        coarse_sizes = [level.vocab_size or 0 for level in self.above]
        self.embed_coarse = [embed(size) for size in coarse_sizes]
        if self.label_condition:
            self.embed_label = embed(self.num_labels + 1)  # the last means "no label"
        if self.text:
            self.prefix = Prefix(self.text, width, self.foretell_text, self.tied, dtype)
        if self.text and self.pooled_text:
            self.pool_text = embed(self.text.vocab_size)
        self.place_row = embed(self.shape[0])
        self.place_column = embed(self.shape[1])
        if self.told_above:
            self.embed_above = [embed(size) for size in coarse_sizes]
        if self.above:
            self.place_level = embed(len(self.above) + 1)
        if self.depths > 1:
            self.place_depth = embed(self.depths)
        std = STD * (2 * self.layers) ** -0.5
        self.blocks = [Block(width, self.heads, self.dropout, std, dtype) for _ in range(self.layers)]
        self.norm = ChannelNorm(jnp.float32)
        if not self.tied:
            self.to_logits = Dense(self.vocab_size, jnp.float32, bias=False)

    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]:
        """{"nll": float32 [B]}, in nats a token; where texts are foretold "text" too, in nats a place, 0 of none.

        In training it needs the stream "dropout"; `keys` is not used.
        """
        tokens = stacked(maps)
        own, said, text = self._forward(tokens, condition, train)
        terms = {"nll": nll(self._logits(own).reshape(*tokens.shape, self.vocab_size), tokens)}
        return terms | {"text": self.prefix.nll(self.norm(said), text)} if self.foretell_text else terms

    def __call__(self, tokens: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """int32 [B, h, w], of several depths [B, h, w, depths] → logits float32 of that shape and K."""
        own, _, _ = self._forward(tokens, condition, train)
        return self._logits(own).reshape(*tokens.shape, self.vocab_size)

    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens:
        """New maps, one of each depth a key, int32 [B, h, w]; to be jitted with `pick` static.

        Where `keep`, bool [B, h, w] a map, is True, the token is that of `known`. Keys and values of all tokens before
        are kept, so that a step costs one token.
        """
        count = len(keys)
        condition, twice = guided(self, condition, pick, count)
        copies = 1 + twice
        given = kept(known, keep)
        text = self._told(condition, count * copies, False)
        beside = self._beside(condition, text)
        prior, variables = self.unbind()  # Linen's modules cannot be called inside a loop, their pure form can

        def one_token(i, carry):
            tokens, x, past = carry
            if beside is not None:
                x = x + lax.dynamic_slice_in_dim(beside, i, 1, axis=1)
            logits, past = prior.apply(variables, x, past, i, method="_step")
            noise = gumbel(jax.vmap(jax.random.fold_in, (0, None))(keys, i), (self.vocab_size,))
            new = copied(pick_token(noise, guide(logits, twice, pick.guidance), pick), given, i)
            x = prior.apply(variables, jnp.tile(new, copies)[:, None], method="_embed")
            return lax.dynamic_update_slice_in_dim(tokens, new[:, None], i, axis=1), x, past

        length = self.length
        start = self._start(condition, count * copies, False), self._past(condition, text, count * copies)
        tokens = lax.fori_loop(0, length, one_token, (jnp.zeros((count, length), jnp.int32), *start))[0]
        return tuple(jnp.moveaxis(tokens.reshape(count, *self.shape, self.depths), -1, 0))

    def _forward(self, tokens: Array, condition: Condition, train: bool) -> tuple[Array, Array, Any]:
        """What the blocks say at the own positions, [B, T, W], and at those of the text, [B, S, W]; and the text."""
        if not train:
            check_told(self, Pick(), told_in(condition))
        embedded = self.embed(tokens.reshape(len(tokens), -1))
        own = jnp.concatenate([self._start(condition, len(embedded), train), embedded[:, :-1]], axis=1)
        text = self._told(condition, len(own), train)
        if (beside := self._beside(condition, text)) is not None:
            own = own + beside
        x = jnp.concatenate([*self._coarse(condition), own], axis=1) + self._places()[None]
        x = jnp.concatenate([*self._prefix(text), x], axis=1)
        for block in self.blocks:
            x, _ = block(x, train)
        return x[:, -own.shape[1] :], x[:, : self._texts], text

    def _start(self, condition: Condition, count: int, train: bool) -> Array:
        """The start token, with the label's vector added where labels are given: [B, 1, W]."""
        start = self.embed(jnp.full((count, 1), self.vocab_size, jnp.int32))
        if not self.label_condition:
            return start
        return start + self.embed_label(told_label(self, condition, count, train))[:, None]

    def _told(self, condition: Condition, count: int, train: bool) -> Array | None:
        """The text, hidden from some in training; None where none are told."""
        return told_text(self, condition, count, train) if self.text else None

    def _prefix(self, text: Array | None) -> list[Array]:
        """The text as the sequence begins, [B, S, W]; nothing where none are told."""
        return [] if text is None else [self.prefix(text)]

    def _beside(self, condition: Condition, text: Array | None) -> Array | None:
        """What each own position is told beside its token, [B, T, W]: coarse tokens over its place, the mean word."""
        above = self._above(condition) if self.told_above else None
        if text is None or not self.pooled_text:
            return above
        pooled = mean_word(text, self.pool_text(text))[:, None]
        return jnp.repeat(pooled, self.length, axis=1) if above is None else above + pooled

    def _coarse(self, condition: Condition) -> list[Array]:
        """The coarser maps, one after the other: [B, h · w, W] each."""
        maps = zip(self.embed_coarse, condition.coarse, strict=True)
        return [table(tokens.reshape(len(tokens), -1)) for table, tokens in maps]

    def _above(self, condition: Condition) -> Array:
        """What each own position is told of the coarse tokens over its place, [B, T, W]; zeros where there are none."""
        length = self.length
        _, row, column, _ = self._coordinates[:, -length:]

        def told(table: Embed, tokens: Array) -> Array:
            height, width = tokens.shape[1:]
            return table(tokens[:, row * height // self.shape[0], column * width // self.shape[1]])

        maps = zip(self.embed_above, condition.coarse, strict=True)
        return sum((told(table, tokens) for table, tokens in maps), jnp.zeros((1, length, 1), self.dtype))

    @property
    def _coordinates(self) -> np.ndarray:
        return raster([level.shape for level in (*self.above, self.maps[0])], self.depths)

    def _places(self) -> Array:
        """What each position adds: its level, row, column and depth, [P + T, W].

        An own position has the place of the token that it foretells. A coarser token has the row and column of the
        first place under it.
        """
        level, row, column, depth = self._coordinates
        places = self.place_row(row) + self.place_column(column)
        if self.above:
            places = places + self.place_level(level)
        if self.depths > 1:
            own = level == len(self.above)
            places = places + jnp.where(own[:, None], self.place_depth(depth), 0)
        return places

    def _past(self, condition: Condition, text: Array | None, count: int) -> list[Past]:
        """What the blocks keep before the first own token: text and coarser maps, read in one pass."""
        places = self._places()
        coarse = self._coarse(condition)
        if coarse:
            x = jnp.concatenate(coarse, axis=1)
            coarse = [x + places[None, : x.shape[1]]]
        if not (before := self._prefix(text) + coarse):
            none = new_cache(jnp.zeros((count, self.heads, 0, self.width // self.heads), self.dtype), len(places))
            return [Past(none, none)] * self.layers
        x, every = jnp.concatenate(before, axis=1), []
        for block in self.blocks:
            x, past = block(x)
            every.append(Past(*(new_cache(a, self._texts + len(places)) for a in past)))
        return every

    @property
    def _texts(self) -> int:
        """S, 0 where none are told."""
        return self.prefix.length if self.text else 0

    def _step(self, x: Array, past: list[Past], i: Array) -> tuple[Array, list[Past]]:
        """The embedding of the token before own token i, [B, 1, W] → logits of token i, [B, K]."""
        places = self._places()
        place = len(places) - self.length + i
        x, every = x + lax.dynamic_slice_in_dim(places, place, 1)[None], []
        for block, before in zip(self.blocks, past, strict=True):
            x, after = block.part(x, before, self._texts + place)
            every.append(after)
        return self._logits(x)[:, 0], every

    def _embed(self, tokens: Array) -> Array:
        return self.embed(tokens)

    def _logits(self, x: Array) -> Array:
        x = self.norm(x)
        if self.tied:
            return x @ self.embed.embedding[: self.vocab_size].T
        return self.to_logits(x)
