"""MaskGIT as a prior over maps of tokens, https://arxiv.org/abs/2202.04200: a transformer that sees all of a map and
foretells the tokens that are hidden; new maps come in a few steps, many tokens a step.

    text, label ────────────────────────────────────┐
    tokens, a mask in place of those that are hidden ┴→ words + places (+ coarser codes over each place) → blocks
        → dense, gelu, norm → product with the words of the codes → logits of every place

One table of words holds codes, labels and the mask, as in the authors' code, https://github.com/google-research/maskgit,
which this is number for number with `norm="post"`, `local=False`, `label_dropout=0` (their weights are read by
`import`). Not as there: the weights of the attention are not dropped, and fresh parameters are not cut at 2 deviations.

In training a share of the tokens is hidden by a schedule, another share for each image, and the loss is the
cross-entropy of the hidden ones. In evaluation a number uniform in 1, …, T is hidden, and the same cross-entropy is in
expectation what saying all tokens in a random order costs, https://arxiv.org/abs/2110.02037, equation 5: a bound of
-log p that compares with the nll of other priors.

Legend: B batch, h w map, T own tokens (h · w · depths), W width, N heads, K codes.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.limits import Count, NotNegative, Rate, Several, Share
from vqvae_jax.networks.dense import STD, Dense
from vqvae_jax.networks.embed import Embed, mean_word
from vqvae_jax.networks.likelihood import cross_entropy, guide, pick_token
from vqvae_jax.priors.bert import Block, layer_norm
from vqvae_jax.priors.condition import (
    check_codes,
    check_told,
    guided,
    kept,
    stacked,
    told_in,
    told_label,
    told_text,
)
from vqvae_jax.priors.reveal import Drawn, Order, Reveal, Schedule, noises, share_hidden, stay_hidden
from vqvae_jax.types import Array, Caption, Condition, Level, Pick, Tokens, UserError

STRATA = 4  # numbers of hidden tokens that an image is evaluated at


class MaskGITPrior(nn.Module):
    """A distribution over one level's tokens, given a label, a text and the maps above it.

    Attributes:
        maps: its own: one, or one for each depth of a residual quantizer; depths share one table.
        above: of the coarser levels, coarse to fine, none larger than its own. Each place is told which of their codes
            lie over it.
        num_labels: labels of the data set, 0 where it has none.
        text: what its texts are like; None where none are told.
        width: of the residual stream.
        layers: blocks.
        heads: of the attention.
        mlp: width inside of the MLPs, in widths.
        dropout: share of what attention, MLP and the first sum give that is dropped in training.
        norm: before attention and MLP ("pre"), or after each residual sum ("post"), as in the paper.
        local: whether a depthwise 3x3 over the map stands before each block: worth much where training is short.
        schedule: of the share that is hidden in training; at r, uniform in 0 to 1, "cosine" hides cos(π r / 2),
            "arccos" 2 arccos(r) / π, "linear" 1 - r.
        smoothing: of the labels in training, over the K codes.
        label_condition: whether the label is given.
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one; 0: then
            neither that nor guidance does.
        text_condition, text_dropout: the same of texts.
        pooled_text: whether each place is also told the mean of the text's words, by a table of its own: a shorter way
            than attention. Not in the paper.
        sample_steps: passes in which a map is drawn; of more steps than tokens each draws one.
        sample_order: which of the tokens drawn in a step stay: the surest ("confidence"), or those whose place is next
            in a two-dimensional Halton sequence ("halton", https://arxiv.org/abs/2503.17076), coarse depths first.
        sample_choice_temperature: of the noise that is added to the log-probability of what was drawn, falling to 0 in
            the last step; the higher, the more random the order.
        sample_schedule: how many tokens are left hidden after each step, as `schedule`.
        sample_guidance: "constant", or "linear": from plain to the guidance of `Pick` in the last step.
        dtype: what the blocks compute in; parameters, norms, softmax and logits are float32.
    """

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = None
    width: Count = 128
    layers: Several = 4
    heads: Count = 4
    mlp: Count = 4
    dropout: Share = 0.0
    norm: Literal["pre", "post"] = "pre"
    local: bool = True
    schedule: Schedule = "cosine"
    smoothing: Rate = 0.0
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = False
    text_dropout: float = 0.1
    pooled_text: bool = False
    sample_steps: Count = 8
    sample_order: Order = "confidence"
    sample_choice_temperature: NotNegative = 4.5
    sample_schedule: Schedule = "cosine"
    sample_guidance: Literal["constant", "linear"] = "constant"
    dtype: jnp.dtype = jnp.float32

    any_order = True  # a place that is drawn is told of every kept one

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None:
        """UserError unless all are codes, its own of one size, and those above no larger."""
        check_codes("MaskGIT", maps, above)
        for level in above:
            if level.shape[0] > maps[0].shape[0] or level.shape[1] > maps[0].shape[1]:
                raise UserError(f"MaskGIT of {maps[0]} cannot be told of the larger {level}; 'transformer' reads any")

    @property
    def vocab_size(self) -> int:
        """K, codes of its own maps."""
        return self.maps[0].vocab_size or 0

    @property
    def form(self) -> tuple[int, int, int]:
        """h, w, depths of its own tokens."""
        return (*self.maps[0].shape, len(self.maps))

    @property
    def length(self) -> int:
        """T, how many tokens a map of its own has, over all depths."""
        return math.prod(self.form)

    @property
    def labels(self) -> int:
        """How many of the words are labels: none where it is not told them."""
        return self.num_labels if self.label_condition else 0

    @property
    def mask(self) -> int:
        """The word of a hidden token; the one after it says "no label"."""
        return self.vocab_size + self.labels

    def setup(self):
        self.fits(self.maps, self.above)
        if self.width % self.heads:
            raise UserError(f"width={self.width} does not divide among heads={self.heads}; change one")
        if self.pooled_text and not self.text:
            raise UserError("pooled_text is of texts: text_condition=true, or leave it off")
        width, dtype = self.width, self.dtype
        words = self.mask + 1 + (self.label_condition and self.label_dropout > 0)
        self.words = Embed(words, width, STD, dtype)
        self.places = Embed(self.length + self.label_condition, width, STD, dtype)  # the label's is the first
        self.embed_above = [Embed(level.vocab_size or 0, width, STD, dtype) for level in self.above]
        if self.text:
            self.embed_text = Embed(self.text.vocab_size, width, STD, dtype)
            self.place_text = Embed(self.text.length, width, STD, dtype)
        if self.pooled_text:
            self.pool_text = Embed(self.text.vocab_size, width, STD, dtype)
        mlp = self.mlp * width
        own = (width, self.heads, mlp, self.dropout, self.norm, self.local, self.form, dtype)
        self.blocks = [Block(*own) for _ in range(self.layers)]
        self.end_norm = layer_norm()  # before the first block where norms stand after, else after the last
        self.head, self.head_norm = Dense(width, dtype), layer_norm()
        self.bias = self.param("bias", nn.initializers.zeros, (words,))
        self.drop = nn.Dropout(self.dropout)

    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]:
        """In training {"masked": that of the hidden tokens}, else {"nll": the bound}; float32 [B], nats a token.

        `keys` hide tokens; in training it needs the stream "dropout" as well.
        """
        tokens = stacked(maps).reshape(len(keys), -1)
        if train:
            hidden = jax.vmap(self._hidden_in_training)(keys)
            return {"masked": self.masked(tokens, hidden, condition, train=True)}
        hidden = jax.vmap(self._hidden_in_evaluation)(keys).reshape(-1, self.length)  # STRATA rows an image
        again = lambda x: jnp.repeat(x, STRATA, axis=0)  # noqa: E731
        every = self.masked(again(tokens), hidden, jax.tree.map(again, condition))
        return {"nll": jnp.mean(every.reshape(-1, STRATA), axis=1)}

    def masked(self, tokens: Array, hidden: Array, condition: Condition, *, train: bool = False) -> Array:
        """Mean cross-entropy of each row's hidden tokens, smoothed in training: int, bool [B, T] → float32 [B]."""
        logits = self.logits(jnp.where(hidden, self.mask, tokens), condition, train=train)
        each = cross_entropy(logits, tokens)
        if train and self.smoothing:
            even = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
            each = (1 - self.smoothing) * each + self.smoothing * even
        return jnp.sum(hidden * each, axis=1) / jnp.sum(hidden, axis=1)

    def logits(self, tokens: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """Codes, and `mask` where one is hidden, int32 [B, T] → logits of every place, float32 [B, T, K]."""
        if not train:
            check_told(self, Pick(), told_in(condition))
        text = told_text(self, condition, len(tokens), train) if self.text else None
        own = self._own(tokens, condition, text)
        x = jnp.concatenate([*self._told(text, condition, len(tokens), train), own], axis=1)
        if self.norm == "post":
            x = self.end_norm(x).astype(self.dtype)
        x = self.drop(x, deterministic=not train)
        for block in self.blocks:
            x = block(x, train)
        x = x[:, -self.length :]
        if self.norm == "pre":
            x = self.end_norm(x).astype(self.dtype)
        x = self.head_norm(nn.gelu(self.head(x)))
        return x @ self.words.embedding[: self.vocab_size].T + self.bias[: self.vocab_size][None, None]

    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens:
        """New maps, one of each depth a key, int32 [B, h, w]; to be jitted with `pick` static.

        Where `keep`, bool [B, h, w] a map, is True, the token is that of `known`, and all that is drawn is told of it.
        """
        condition, twice = guided(self, condition, pick, len(keys))
        tokens, keep_flat = kept(known, keep) or (jnp.zeros((len(keys), self.length), jnp.int32), jnp.zeros((), bool))
        hidden = jnp.broadcast_to(~keep_flat, tokens.shape)
        prior, variables = self.unbind()  # Linen's modules cannot be called inside a loop, their pure form can
        steps = min(self.sample_steps, self.length)
        how = Reveal(self.form, self.sample_order, self.sample_schedule, self.sample_choice_temperature)

        def one_step(step, carry):
            tokens, left = carry
            seen = jnp.tile(jnp.where(left, prior.mask, tokens), (1 + twice, 1))
            said = prior.apply(variables, seen, condition, method="logits")
            weight = pick.guidance
            if prior.sample_guidance == "linear":
                weight = 1 + (weight - 1) * (step + 1) / steps
            said = guide(said, twice, weight)
            token_noise, choice_noise = noises(keys, step, said.shape[1:])
            tokens = jnp.where(left, pick_token(token_noise, said, pick), tokens)
            return tokens, stay_hidden(how, Drawn(tokens, said, hidden, left), choice_noise, step, steps)

        tokens, _ = lax.fori_loop(0, steps, one_step, (tokens, hidden))
        return tuple(jnp.moveaxis(tokens.reshape(-1, *self.form), -1, 0))

    def _hidden_in_training(self, key: Array) -> Array:
        """bool [T]; at least one is."""
        ratio, order = jax.random.split(key)
        share = share_hidden(self.schedule, jax.random.uniform(ratio))
        return jax.random.permutation(order, self.length) < jnp.maximum(1, jnp.round(share * self.length))

    def _hidden_in_evaluation(self, key: Array) -> Array:
        """bool [STRATA, T]; how many are is uniform in 1, …, T, over the strata at even distances."""
        share = (jnp.arange(STRATA) + jax.random.uniform(key)) / STRATA
        orders = jax.vmap(jax.random.permutation, (0, None))(jax.random.split(key, STRATA), self.length)
        return orders <= jnp.floor(share * self.length)[:, None]

    def _told(self, text: Array | None, condition: Condition, count: int, train: bool) -> list[Array]:
        """Text and label, with their places, [B, …, W]; nothing of what is not told."""
        told = []
        if self.text and text is not None:
            told.append(self.embed_text(text) + self.place_text(jnp.arange(self.text.length))[None])
        if self.label_condition:
            label = told_label(self, condition, count, train)
            word = jnp.where(label == self.num_labels, self.mask + 1, self.vocab_size + label)
            told.append(self.words(word[:, None]) + self.places(jnp.zeros(1, jnp.int32))[None])
        return told

    def _own(self, tokens: Array, condition: Condition, text: Array | None) -> Array:
        """The own tokens with their places, what lies over them and the mean word, [B, T, W]."""
        x = self.words(tokens) + self.places(self.label_condition + jnp.arange(self.length))[None]
        height, width, depths = self.form
        row, column, _ = np.indices((height, width, depths)).reshape(3, -1)
        for table, coarse in zip(self.embed_above, condition.coarse, strict=True):
            rows, columns = coarse.shape[1:]
            x = x + table(coarse[:, row * rows // height, column * columns // width])
        if text is not None and self.pooled_text:
            x = x + mean_word(text, self.pool_text(text))[:, None]
        return x
