"""VAR as a prior over maps of growing sizes, https://arxiv.org/abs/2404.02905: a map is drawn whole, in one pass, from
all maps before it.

    label, text ─→ a vector ─→ gates, scales, shifts of every block and of the end
                      └→ + start ──────────────────────────────────────────────────────┐
    maps 0, …, s ─→ vectors of their codes ─→ f̂_s, one map of numbers                  │
                      └→ means over the places of map s + 1 ─→ dense ──────────────────┴→ + place, + scale
        (+ coarser codes over each place; a text before all, word by word) → blocks → logits of maps 0, …, s + 1

f̂ is what a tokenizer of such maps decodes (`networks.scales`); its codes and φ are parameters of the prior's own, so
that it needs no tokenizer. With the tokenizer's in their place, without texts and coarser maps, this is number for
number the authors' code, https://github.com/FoundationVision/VAR.

Legend: B batch, S scales, T own tokens of all maps, h w one map, W width, K codes, D numbers a code, C coarser maps.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.limits import Blocks, Count, Rate, Several, Share
from vqvae_jax.networks.dense import Dense
from vqvae_jax.networks.dit import modulated
from vqvae_jax.networks.embed import Embed, mean_word
from vqvae_jax.networks.likelihood import guide, gumbel, nll, pick_token
from vqvae_jax.networks.resize import shrunk
from vqvae_jax.priors.condition import check_are_codes, check_told, guided, told_in, told_label, told_text
from vqvae_jax.priors.next_scale import HEAD, Block, Features, Modulate, Past
from vqvae_jax.types import Array, Caption, Condition, Level, Pick, Tokens, UserError


class VARPrior(nn.Module):
    """A distribution over one level's maps, given a label, a text and the maps above it.

    Attributes:
        maps: its own, each no smaller than the one before.
        above: of the coarser levels, of any sizes. Each place is told the mean of their codes over it.
        num_labels: labels of the data set, 0 where it has none.
        text: what its texts are like; None where none are told.
        code_dim: D, numbers of a code in the running map f̂.
        shared: whether all scales have one table of codes, as those of a quantizer with `shared` are.
        phis: convolutions that mend what is enlarged, which scales share; 0 for none.
        held_features: whether codes and φ stay as they begin, or were imported.
        width: of the residual stream.
        layers: blocks.
        heads: of the attention.
        mlp: width inside of the MLPs, in widths.
        local: whether a depthwise 3x3 over each map stands before each block: worth much where training is short. Not
            the authors'.
        l2_norm: whether queries and keys are of length 1, with a learned sharpness a head.
        dropout: share of what attention and MLP give that is dropped in training.
        drop_path: share of examples whose attention, or MLP, is left out in training: of the last block, of the others
            less, of the first nothing. The paper's is 0.1 · layers / 24.
        remat: the backward pass computes blocks anew and does not keep what is inside: less memory, a third more work.
        label_condition: whether the label is given.
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one; 0: then
            neither that nor guidance does.
        text_condition, text_dropout: the same of texts. The mean of a text's words is told as a label is; its words are
            attended to as well.
        sample_growing_guidance: whether guidance grows from plain at the first scale to that of `Pick` at the last, as
            the authors do it. Their t is `guidance` - 1.
        dtype: what the blocks compute in; parameters, f̂, norms, softmax and logits are float32.
    """

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = None
    code_dim: Count = 32
    shared: bool = False
    phis: Blocks = 4
    held_features: bool = False
    width: Count = 128
    layers: Several = 4
    heads: Count = 4
    mlp: Count = 4
    local: bool = False
    l2_norm: bool = True
    dropout: Share = 0.0
    drop_path: Rate = 0.0
    remat: bool = False
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = False
    text_dropout: float = 0.1
    sample_growing_guidance: bool = False
    dtype: jnp.dtype = jnp.float32

    any_order = False  # no fields
    sees = "map after map, so that a place sees, of what is kept on its level, only the maps before its own, each whole"

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None:
        """UserError unless all are codes, its own of one vocabulary, and none smaller than the one before."""
        check_are_codes("VAR", maps, above)
        if len({level.vocab_size for level in maps}) > 1:
            several = ", ".join(map(str, maps))
            raise UserError(f"VAR models maps of one vocabulary; these are {several}; give all one codebook_size")
        for before, level in pairwise(maps):
            if level.shape[0] < before.shape[0] or level.shape[1] < before.shape[1]:
                raise UserError(
                    f"VAR models maps that grow, and {level} is smaller than {before}; the quantizer 'multiscale' "
                    "makes such maps, its scales in rising order: --config.autoencoder.quantizer.name=multiscale"
                )

    @property
    def vocab_size(self) -> int:
        """K, codes of its own maps."""
        return self.maps[0].vocab_size or 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each map."""
        return tuple(math.prod(level.shape) for level in self.maps)

    @property
    def length(self) -> int:
        """T."""
        return sum(self.sizes)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of parameters that no training moves."""
        return ("features",) if self.held_features else ()

    def setup(self):
        self.fits(self.maps, self.above)
        if self.width % self.heads:
            raise UserError(f"width={self.width} does not divide among heads={self.heads}; change one")
        width, scales = self.width, len(self.maps)
        std = (3 * width) ** -0.5
        table = lambda size: Embed(size, width, std)  # noqa: E731
        codes = (self.vocab_size,) if self.shared else (scales, self.vocab_size)
        self.features = Features(codes, self.code_dim, self.phis)
        self.read = Dense(width, jnp.float32, std)
        self.start, self.places, self.scales = table(self.sizes[0]), table(self.length), table(scales)
        self.embed_label = table(1 + (self.num_labels if self.label_condition else 0))  # the last means "no label"
        if self.text:
            self.embed_text, self.place_text = table(self.text.vocab_size), table(self.text.length)
        self.embed_above = [table(level.vocab_size or 0) for level in self.above]
        shapes = tuple(level.shape for level in self.maps)
        kind = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        own = (width, self.heads, self.mlp * width, self.dropout)
        ends = (self.l2_norm, std, std * (2 * self.layers) ** -0.5)
        ends += (self._words, shapes, self.local, self.dtype)
        self.blocks = [kind(*own, float(drop), *ends) for drop in np.linspace(0, self.drop_path, self.layers)]
        self.modulate = Modulate(2 * width, 0, std)
        self.to_logits = Dense(self.vocab_size, jnp.float32, std * HEAD)

    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]:
        """{"nll": float32 [B]}, in nats a token of all maps.

        In training it needs the stream "dropout"; `keys` is not used.
        """
        none = jnp.zeros((len(keys), 0, self.code_dim), jnp.float32)
        logits = self.logits(jnp.concatenate([none, *self.heard(maps[:-1])], axis=1), condition, train=train)
        return {"nll": nll(logits, jnp.concatenate([one.reshape(len(keys), -1) for one in maps], axis=1))}

    def heard(self, maps: Tokens) -> list[Array]:
        """What the maps after the first hear of those before, [B, h · w, D] each: of f̂ the means over their places.

        maps: the first ones, int32 [B, h, w] each; of n of them as many.
        """
        sums = self.features(maps, self.maps[-1].shape, len(self.maps))
        after = zip(sums, self.maps[1:], strict=False)
        return [shrunk(one, level.shape).reshape(len(one), -1, self.code_dim) for one, level in after]

    def logits(self, heard: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """What all maps after the first hear, [B, T - first, D] → logits of all places, float32 [B, T, K]."""
        if not train:
            check_told(self, Pick(), told_in(condition))
        vector, text = self._told(condition, len(heard), train)
        own = jnp.concatenate([self._first(vector), self.read(heard)], axis=1) + self._beside(condition)
        x = jnp.concatenate([*text, own], axis=1).astype(self.dtype)
        for block in self.blocks:
            x = block(x, vector, train)
        return self._logits(x[:, self._words :], vector)

    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens:
        """New maps, one of each size a key, int32 [B, h, w]; to be jitted with `pick` static.

        Where `keep`, bool [B, h, w] a map, is True, the token is that of `known`, and all later maps are told of it.
        Keys and values of all maps before are kept, so that every token is computed once, a map a pass.
        """
        condition, twice = guided(self, condition, pick, len(keys))
        vector, text = self._told(condition, len(keys) * (1 + twice), False)
        beside = self._beside(condition)
        maps: Tokens = ()
        past: Sequence[Past | None] = [None] * self.layers
        for scale, (begin, end) in enumerate(pairwise(accumulate(self.sizes, initial=0))):
            told = self.read(jnp.tile(self.heard(maps)[-1], (1 + twice, 1, 1))) if scale else self._first(vector)
            x = jnp.concatenate([*([] if scale else text), told + beside[:, begin:end]], axis=1).astype(self.dtype)
            x, past = self._part(x, vector, scale, past)
            logits = guide(self._logits(x[:, begin - end :], vector), twice, self._guidance(pick, scale))
            noise = gumbel(jax.vmap(jax.random.fold_in, (0, None))(keys, scale), logits.shape[1:])
            new = pick_token(noise, logits, pick).reshape(-1, *self.maps[scale].shape)
            if known is not None and keep is not None:
                new = jnp.where(keep[scale], known[scale].astype(jnp.int32), new)
            maps = (*maps, new)
        return maps

    def _part(self, x: Array, vector: Array, scale: int, past: Sequence[Past | None]) -> tuple[Array, list[Past]]:
        """One map through all blocks, [B, n, W], and what each keeps."""
        every = []
        for block, before in zip(self.blocks, past, strict=True):
            x, after = block.part(x, vector, scale, before)
            every.append(after)
        return x, every

    def _guidance(self, pick: Pick, scale: int) -> float:
        """Its weight at a scale."""
        share = scale / max(len(self.maps) - 1, 1) if self.sample_growing_guidance else 1.0
        return 1 + (pick.guidance - 1) * share

    @property
    def _words(self) -> int:
        """Positions of a text before the maps, 0 where none are told."""
        return self.text.length if self.text else 0

    def _told(self, condition: Condition, count: int, train: bool) -> tuple[Array, list[Array]]:
        """Label and text as one vector, [B, W], and the text's words, [B, words, W]; of no text []."""
        label = told_label(self, condition, count, train) if self.label_condition else jnp.zeros(count, jnp.int32)
        vector = self.embed_label(label)
        if not self.text:
            return vector, []
        text = told_text(self, condition, count, train)
        words = self.embed_text(text)
        return vector + mean_word(text, words), [words + self.place_text(jnp.arange(self._words))[None]]

    def _first(self, vector: Array) -> Array:
        """What the first map hears, [B, h · w, W]."""
        return vector[:, None] + self.start.embedding[None]

    def _beside(self, condition: Condition) -> Array:
        """What each place is told beside that, [1 or B, T, W]: itself, its scale, the mean of coarser codes over it."""
        beside = (self.places.embedding + jnp.repeat(self.scales.embedding, np.array(self.sizes), axis=0))[None]
        for table, tokens in zip(self.embed_above, condition.coarse, strict=True):
            over = [shrunk(table(tokens), level.shape) for level in self.maps]
            beside = beside + jnp.concatenate([one.reshape(len(one), -1, self.width) for one in over], axis=1)
        return beside

    def _logits(self, x: Array, vector: Array) -> Array:
        scale, shift = jnp.split(self.modulate(vector), 2, axis=-1)
        return self.to_logits(modulated(x, shift, scale, jnp.float32))
