"""Priors that are no autoregressive model of one size, in a few lines each: what `types.Prior` leaves room for."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.networks.likelihood import cross_entropy, gumbel, nll, pick_token
from vqvae_jax.priors.condition import check_codes
from vqvae_jax.types import Level


class MaskedPrior(nn.Module):
    """Codes hidden at random are guessed from the others, drawn in a few steps, the surest first: a small MaskGIT."""

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    label_condition: bool = False
    label_dropout: float = 0.1
    width: int = 16
    sample_steps: int = 3
    dtype: Any = jnp.float32
    any_order = True

    @staticmethod
    def fits(maps, above):
        check_codes("a masked prior", maps, above)

    @nn.compact
    def logits(self, tokens, coarse):
        """int32 [B, h, w], K where hidden → [B, h, w, K]."""
        (level,), count = self.maps, len(tokens)
        x = nn.Embed(level.vocab_size + 1, self.width)(tokens).reshape(count, -1, self.width)
        for above, one in zip(self.above, coarse, strict=True):
            told = nn.Embed(above.vocab_size, self.width)(one).reshape(count, -1, self.width)
            x = x + nn.Dense(x.shape[1])(told.swapaxes(1, 2)).swapaxes(1, 2)
        x = x + nn.relu(nn.Dense(x.shape[1])(x.swapaxes(1, 2))).swapaxes(1, 2)
        return nn.Dense(level.vocab_size)(nn.relu(x)).reshape(*tokens.shape, -1)

    def loss(self, maps, condition, keys, *, train=False):
        """The nll of the hidden codes, a code: of a random order a bound of the whole map's."""
        (tokens,) = maps
        chance, order = jax.vmap(lambda key: (jax.random.uniform(key), jax.random.uniform(key, tokens.shape[1:])))(keys)
        hidden = order <= jnp.maximum(chance[:, None, None], order.min((1, 2), keepdims=True))
        guesses = self.logits(jnp.where(hidden, self.maps[0].vocab_size, tokens), condition.coarse)
        return {"nll": jnp.sum(hidden * cross_entropy(guesses, tokens), (1, 2)) / jnp.sum(hidden, (1, 2))}

    def sample(self, keys, condition, pick, known=None, keep=None):
        (level,) = self.maps
        shape = (len(keys), *level.shape)
        (known,), (keep,) = (known or (jnp.zeros(shape, jnp.int32),)), (keep or (jnp.zeros(shape, bool),))
        tokens = jnp.where(keep, known, level.vocab_size)
        for step in range(self.sample_steps):
            noise = gumbel(jax.vmap(jax.random.fold_in, (0, None))(keys, step), (*level.shape, level.vocab_size))
            logits = self.logits(tokens, condition.coarse)
            hidden, guess = tokens == level.vocab_size, pick_token(noise, logits, pick)
            unsure = jnp.where(hidden, cross_entropy(logits, guess), jnp.inf)
            left = (math.prod(level.shape) * (step + 1)) // self.sample_steps  # of the hidden ones, the surest
            least = jnp.sort(unsure.reshape(len(keys), -1), -1)[:, left - 1][:, None, None]
            tokens = jnp.where(hidden & (unsure <= least), guess, tokens)
        return (tokens,)


class NextScalePrior(nn.Module):
    """The maps of one level, each larger than the one before and drawn whole from those before: a small VAR."""

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    label_condition: bool = False
    label_dropout: float = 0.1
    width: int = 16
    dtype: Any = jnp.float32
    any_order = False  # of those on the maps before

    @staticmethod
    def fits(maps, above):
        assert not above

    def setup(self):
        self.embed = [nn.Embed(level.vocab_size, self.width) for level in self.maps]
        self.to_logits = [nn.Dense(level.vocab_size) for level in self.maps]
        self.place = [self.param(level.name, nn.initializers.normal(1.0), (*level.shape, 16)) for level in self.maps]

    def logits(self, before, number):
        """The maps before the one with this number → its logits [B, h, w, K]."""
        height, width = self.maps[number].shape
        x = self.place[number][None]
        for embed, one in zip(self.embed, before, strict=False):
            told = embed(one).repeat(height // one.shape[1], 1).repeat(width // one.shape[2], 2)
            x = x + nn.relu(told)
        return self.to_logits[number](x)

    def loss(self, maps, condition, keys, *, train=False):
        """The nll a code, over all maps."""
        count = sum(math.prod(level.shape) for level in self.maps)
        every = []
        for number, (level, one) in enumerate(zip(self.maps, maps, strict=True)):
            logits = jnp.broadcast_to(self.logits(maps[:number], number), (*one.shape, level.vocab_size))
            every.append(math.prod(level.shape) / count * nll(logits, one))
        return {"nll": sum(every)}

    def sample(self, keys, condition, pick, known=None, keep=None):
        new = ()
        for number, level in enumerate(self.maps):
            noise = gumbel(jax.vmap(jax.random.fold_in, (0, None))(keys, number), (*level.shape, level.vocab_size))
            guess = pick_token(noise, self.logits(new, number), pick)
            new += (guess if keep is None else jnp.where(keep[number], known[number], guess),)
        return new


class GaussianPrior(nn.Module):
    """Numbers: each a normal of its own, told nothing. What a diffusion model is in an outline: no code, no nll."""

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    label_condition: bool = False
    label_dropout: float = 0.1
    sample_noise: float = 0.1
    dtype: Any = jnp.float32
    any_order = False  # of none

    @staticmethod
    def fits(maps, above):
        assert [level.vocab_size for level in maps] == [None]

    def setup(self):
        self.mean = self.param("mean", nn.initializers.zeros, self.maps[0].form)

    def loss(self, maps, condition, keys, *, train=False):
        noise = jax.vmap(lambda key: jax.random.normal(key, self.maps[0].form))(keys)
        foretold = self.mean[None] + self.sample_noise * noise
        return {"mse": jnp.mean(jnp.square(maps[0] - foretold), (1, 2, 3))}

    def sample(self, keys, condition, pick, known=None, keep=None):
        noise = jax.vmap(lambda key: jax.random.normal(key, self.maps[0].form))(keys)
        new = self.mean[None] + self.sample_noise * pick.temperature * noise
        return (new if known is None else jnp.where(keep[0][..., None], known[0], new),)
