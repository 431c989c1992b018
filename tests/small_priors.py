"""Small priors for tests, with parameters whose logits are neither equal nor certain."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from small_models import quick

from vqvae_jax.networks.likelihood import gumbel, pick_token
from vqvae_jax.priors import PRIORS
from vqvae_jax.priors.condition import stacked, unstacked
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.types import Caption, Condition, Level

CODES = 6
LABELS = 3

PIXELCNN = {"depth": 8, "layers": 2, "heads": 2, "condition_blocks": 1, "output_blocks": 1}
TRANSFORMER = {"width": 16, "layers": 2, "heads": 2}
LABEL = {"num_labels": LABELS, "label_condition": True}
TEXT = {"text": Caption(7, 3), "text_condition": True}
HEARD = {"foretell_text": True, "pooled_text": True}
# A case or more for every name in PRIORS, as `made` takes them. Maps are not square.
CASES: dict[str, dict[str, Any]] = {
    "pixelcnn": {"shape": (4, 6), "coarse_sizes": (5,), "attention_after": (1,), **LABEL, **PIXELCNN},
    "pixelcnn-depths, coarse": {
        "shape": (2, 4),
        "coarse_sizes": (5, 4),
        "coarse_shapes": ((1, 2), (1, 2)),
        "depths": 3,
        **PIXELCNN,
        **LABEL,
    },
    "pixelcnn-text, coarse": {"shape": (2, 4), "coarse_sizes": (5,), **PIXELCNN, **TEXT},
    "mnist_generator": {"shape": (3, 4), **PIXELCNN},
    "top_prior": {"shape": (4, 3), **PIXELCNN, "attention_after": (2,), **LABEL},
    "bottom_prior": {"shape": (2, 4), "coarse_sizes": (5,), **PIXELCNN},
    "transformer": {"shape": (3, 4), **TRANSFORMER},
    "transformer-tied, label": {"shape": (4, 3), **TRANSFORMER, **LABEL, "tied": True},
    "transformer-two coarse, label": {"shape": (4, 8), "coarse_sizes": (4, 5), **TRANSFORMER, **LABEL},
    "transformer-text, label, coarse": {"shape": (2, 3), "coarse_sizes": (5,), **TRANSFORMER, **LABEL, **TEXT},
    "transformer-text foretold, pooled": {"shape": (3, 2), **TRANSFORMER, **TEXT, **HEARD, "tied": True},
    "transformer-depths, coarse": {
        "shape": (3, 4),
        "coarse_sizes": (5, 4),
        "coarse_shapes": ((1, 2), (1, 2)),
        "depths": 3,
        "told_above": True,
        **TRANSFORMER,
    },
}


def levels(vocab_size, shape, coarse_sizes=(), coarse_shapes=(), depths=1):
    """The fields `maps` and `above`; each map above is half of the next where its shape is not said.

    shape: of every own map; or, ((h, w), …), one of each.
    """
    if isinstance(shape[0], tuple):
        own = tuple(Level(f"own.{i}", one, vocab_size) for i, one in enumerate(shape))
        return levels(vocab_size, shape[-1], coarse_sizes, coarse_shapes) | {"maps": own}
    shapes = coarse_shapes or [(shape[0] >> n, shape[1] >> n) for n in range(len(coarse_sizes), 0, -1)]
    above = tuple(Level(f"above {i}", *level) for i, level in enumerate(zip(shapes, coarse_sizes, strict=True)))
    return {"maps": tuple(Level(f"own.{i}", tuple(shape), vocab_size) for i in range(depths)), "above": above}


def made(kind, vocab_size, shape, coarse_sizes=(), coarse_shapes=(), depths=1, **fields):
    """A prior, by its class or its name in PRIORS."""
    kind = PRIORS.get(kind, kind)
    return kind(**levels(vocab_size, shape, coarse_sizes, coarse_shapes, depths), **fields)


def drawn(init, seed=0):
    """Parameters drawn by numpy (jax's own take long to compile), so that logits are neither equal nor certain.

    `init` gives parameters from a key.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(a):
        scale = 0.5 if len(a.shape) == 1 else 1.2 * np.prod(a.shape[:-1]) ** -0.5
        return jnp.asarray(rng.normal(size=a.shape, scale=scale), a.dtype)

    return jax.tree.map(draw, shapes)


def token_shape(prior):
    """Of one example: (h, w), or (h, w, depths) where these are several."""
    return (*prior.shape, *((prior.depths,) if prior.depths > 1 else ()))


def maps(prior, count, seed=0):
    """Tokens and a condition that fit a prior."""
    rng = np.random.default_rng(seed)
    coarse = tuple(
        jnp.asarray(rng.integers(0, level.vocab_size, (count, *level.shape)), jnp.int32) for level in prior.above
    )
    label = jnp.asarray(np.arange(count) % LABELS, jnp.int32) if prior.label_condition else None
    tokens = rng.integers(0, prior.vocab_size, (count, *token_shape(prior)))
    return jnp.asarray(tokens, jnp.int32), Condition(label, coarse, texts(prior, count))


def texts(prior, count):
    """int32 [count, T], each another one; None where the prior is told none."""
    if not getattr(prior, "text", None):
        return None
    size, length = prior.text
    return jnp.asarray(np.add.outer(np.arange(count), np.arange(length)) % size, jnp.int32)


@functools.cache
def built(case):
    """(prior, parameters) of a case."""
    prior = made(case.partition("-")[0], CODES, **CASES[case])
    return prior, drawn(lambda key: prior.init(key, *maps(prior, 2)))


def position_noise(prior, keys):
    """The Gumbel noise of each position, in the order of sampling, [B, K] each: of each row, or of each token."""
    each = (prior.shape[1], prior.depths) if isinstance(prior, PixelCNNPrior) else ()
    length = int(np.prod(token_shape(prior))) // int(np.prod(each))
    noise = [gumbel(jnp.stack([jax.random.fold_in(k, i) for k in keys]), (*each, CODES)) for i in range(length)]
    return np.concatenate([np.reshape(n, (len(keys), -1, CODES)) for n in noise], axis=1).swapaxes(0, 1)


def listening_sampler(prior, count, pick, monkeypatch):
    """A compiled (parameters, keys, condition, known, keep) → tokens and the logits that each was picked from.

    Tokens, known and keep are as the prior's logits have them: of several depths [B, h, w, depths].
    """
    overheard = []

    def listen(noise, logits):
        overheard.append((np.array(noise), np.array(logits)))

    def pick_and_tell(noise, logits, pick):
        jax.debug.callback(listen, noise, logits)
        return pick_token(noise, logits, pick)

    file = next(sys.modules[kind.__module__] for kind in type(prior).__mro__ if "sample" in vars(kind))
    monkeypatch.setattr(file, "pick_token", pick_and_tell)
    run = quick(lambda p, keys, *given: prior.apply(p, keys, given[0], pick, *given[1:], method="sample"))

    def sample(params, keys, condition, known=None, keep=None):
        overheard.clear()
        given = () if known is None else (unstacked(known), unstacked(keep))
        tokens = np.asarray(stacked(run(params, keys, condition, *given)))
        jax.effects_barrier()
        noises, logits = (np.stack(column) for column in zip(*overheard, strict=True))
        wanted = position_noise(prior, keys)
        order = [int(np.abs(noises - noise).max((1, 2)).argmin()) for noise in wanted]
        assert sorted(order) == list(range(len(wanted)))  # one pick a position, each with noise of its own
        np.testing.assert_allclose(noises[order], wanted, atol=1e-5)  # not equal: compiled elsewhere
        return tokens, logits[order].swapaxes(0, 1).reshape(*tokens.shape, prior.vocab_size)

    return sample


def replayed(prior, keys, logits, pick):
    """What each position's noise picks from the logits of the full forward."""
    flat = np.asarray(logits).reshape(len(logits), -1, prior.vocab_size)
    picks = [pick_token(n, jnp.asarray(flat[:, i]), pick) for i, n in enumerate(position_noise(prior, keys))]
    return np.stack(picks, 1).reshape(logits.shape[:-1])
