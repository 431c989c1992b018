"""The score of a map under a text: by hand from each prior's own loss, and by a prior that is known to hear."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABEL, LABELS, TEXT, drawn, made

from vqvae_jax.asked import Asked, Told
from vqvae_jax.drawn import in_chunks
from vqvae_jax.networks.dit import DiT
from vqvae_jax.networks.likelihood import cross_entropy
from vqvae_jax.priors import score
from vqvae_jax.priors.diffusion import BINS, DiffusionPrior
from vqvae_jax.priors.maskgit import STRATA
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.scored import best_drawn, scored
from vqvae_jax.types import Caption, Condition, Level, Model, Pick, UserError

COUNT, LOOKS = 3, 2
KEYS = jax.random.split(jax.random.key(2), COUNT)
SMALL = {"shape": (2, 3), "width": 16, "layers": 1, "heads": 2, **TEXT}
KINDS = {
    "transformer": lambda: made("transformer", CODES, coarse_sizes=(5,), depths=2, **LABEL, **SMALL),
    "maskgit": lambda: made("maskgit", CODES, coarse_sizes=(5,), depths=2, **LABEL, **SMALL),
    "var": lambda: made("var", CODES, coarse_sizes=(5,), **LABEL, **{**SMALL, "shape": ((1, 2), (2, 3))}, code_dim=4),
    "diffusion": lambda: DiffusionPrior((Level("codes", (2, 4), None, 3),), DiT(3, 16, 1, 2, patch=2), **LABEL, **TEXT),
}
ASKED = {}  # by prior, what it says, compiled


def built(kind):
    """(prior, model, maps, condition)"""
    prior, rng = KINDS[kind](), np.random.default_rng(0)
    one = lambda level: (  # noqa: E731
        rng.normal(size=(COUNT, *level.form)) if level.vocab_size is None else rng.integers(0, 5, (COUNT, *level.form))
    )
    maps, above = (tuple(jnp.asarray(one(level), level.dtype) for level in some) for some in (prior.maps, prior.above))
    told = Condition(jnp.arange(COUNT) % LABELS, above, jnp.asarray(rng.integers(1, 7, (COUNT, 3)), jnp.int32))
    params = drawn(lambda key: prior.init(key, maps, told, KEYS, method="loss"))["params"]
    return prior, Model(params, {}), maps, told


def by_hand(prior, model, maps, told, keys):
    """What maps cost under one key each: nats of each, or squared errors. Only the network is compiled."""
    method = "foretell" if isinstance(prior, DiffusionPrior) else "logits" if hasattr(prior, "logits") else "__call__"
    network = ASKED.setdefault(prior, quick(lambda *given: prior.apply(*given, method=method)))
    weights = {"params": model.params}
    ask = lambda *given: np.asarray(network(weights, *given, told))  # noqa: E731
    if isinstance(prior, DiffusionPrior):
        time, noise = jax.vmap(lambda key: prior.apply(weights, key, method="_drawn_in_evaluation"))(keys)
        t = time[..., None, None, None]
        at = lambda i: ask((1 - t[:, i]) * maps[0] + t[:, i] * noise[:, i], time[:, i])  # noqa: E731
        bins = [np.square(at(i) - (noise[:, i] - maps[0])).mean((1, 2, 3)) for i in range(BINS)]
        return np.mean(bins, axis=0)
    if isinstance(prior, VARPrior):
        heard = jnp.concatenate(prior.apply(weights, maps[:-1], method="heard"), axis=1)
        tokens = jnp.concatenate([one.reshape(COUNT, -1) for one in maps], axis=1)
        return cross_entropy(ask(heard), tokens).sum(1)
    tokens = jnp.stack(maps, axis=-1)
    if not hasattr(prior, "schedule"):
        return cross_entropy(ask(tokens), tokens).reshape(COUNT, -1).sum(1)
    tokens, strata = tokens.reshape(COUNT, -1), []
    hidden = jax.vmap(lambda key: prior.apply(weights, key, method="_hidden_in_evaluation"))(keys)
    for i in range(STRATA):
        each = cross_entropy(ask(jnp.where(hidden[:, i], prior.mask, tokens)), tokens)
        strata.append((hidden[:, i] * each).sum(1) / hidden[:, i].sum(1) * tokens.shape[1])
    return np.mean(strata, axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_maps_cost_without_the_text_less_what_they_cost_with_it(kind):
    """The mean of the looks, each with the same key for both; no label in either."""
    prior, model, maps, told = built(kind)
    bare = told._replace(label=jnp.full(COUNT, LABELS))
    wanted = 0
    for look in range(LOOKS):
        keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, look)
        without, under = (
            by_hand(prior, model, maps, bare._replace(text=text), keys) for text in (0 * told.text, told.text)
        )
        wanted += np.asarray(without - under) / LOOKS
    got = score.scores(prior, model, maps, told, KEYS, LOOKS)
    assert got.dtype == jnp.float32 and np.abs(got).min() > 1e-4
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


class Hearing(nn.Module):
    """Each code is likely where the text says it; its loss is full of noise, which a score must not see."""

    maps: tuple[Level, ...]
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = Caption(CODES + 1, 1)
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = True
    text_dropout: float = 0.1

    @nn.compact
    def loss(self, maps, condition, keys, *, train=False):
        sure = self.param("sure", nn.initializers.constant(3.0), ())
        text = jnp.zeros((len(keys), 1), jnp.int32) if condition.text is None else condition.text
        logits = sure * jax.nn.one_hot(text - 1, CODES)[:, :, None]
        each = cross_entropy(jnp.broadcast_to(logits, (*maps[0].shape, CODES)), maps[0])
        return {"nll": each.mean((1, 2)) + jax.vmap(jax.random.normal)(keys)}


@pytest.mark.parametrize("looks", [1, 3])
def test_the_text_that_says_what_is_there_scores_highest(looks):
    prior = Hearing((Level("codes", (2, 2), CODES),))
    maps = (jnp.broadcast_to(jnp.arange(CODES)[:, None, None], (CODES, 2, 2)),)
    model, keys = Model({"sure": jnp.asarray(3.0)}, {}), jax.random.split(jax.random.key(0), CODES)
    table = []
    for word in range(CODES):
        text = jnp.full((CODES, 1), word + 1)
        table.append(score.scores(prior, model, maps, Condition(text=text), keys, looks))
    said = 4 * (3 - math.log((CODES - 1 + math.exp(3)) / CODES))  # of four places
    other = 4 * -math.log((CODES - 1 + math.exp(3)) / CODES)
    np.testing.assert_allclose(table, np.where(np.eye(CODES), said, other), atol=1e-4)
    chunks = score.scores(prior, model, maps, Condition(text=text), keys, looks, size=4)  # the last is not full
    np.testing.assert_allclose(chunks, table[-1], atol=1e-4)


def test_a_loss_without_keys_is_computed_once():
    """A transformer's: looks would be the same number again."""
    prior, model, maps, told = built("transformer")
    told = told._replace(label=None)
    made = lambda looks: jax.make_jaxpr(lambda: score._scores(prior, looks, model, maps, told, KEYS))().pretty_print()  # noqa: E731
    assert made(5).count("dot_general") == made(1).count("dot_general")
    np.testing.assert_array_equal(*(score.scores(prior, model, maps, told, KEYS, looks) for looks in (1, 4)))


def test_who_never_did_without_has_no_score():
    prior, model, maps, told = built("transformer")
    with pytest.raises(UserError, match=r"with text_dropout=0 the prior 'LEVEL' never learned .*text_dropout=0.1"):
        score.scores(prior.clone(text_dropout=0.0), model, maps, told, KEYS)
    with pytest.raises(UserError, match="trained without text_condition"):
        score.scores(prior.clone(text=None), model, maps, told, KEYS)
    wants = prior.clone(label_dropout=0.0)
    with pytest.raises(UserError, match="label_dropout=0 .*never learned to do without one"):
        score.scores(wants, model, maps, told._replace(label=None), KEYS)
    labelled = score.scores(wants, model, maps, told, KEYS)
    assert (labelled != score.scores(prior, model, maps, told, KEYS)).any()


def test_the_best_of_several_is_told_the_label_that_its_prior_never_did_without():
    """Drawn and scored under it; the best is that of all that are drawn."""
    prior, rng = made("transformer", CODES, **{**LABEL, **SMALL, "label_dropout": 0.0}), np.random.default_rng(0)
    told = Told(np.array([0, 1], np.int32), rng.integers(1, 7, (2, 3)).astype(np.int32))
    several = Told(*(np.repeat(one, 3, axis=0) for one in told))
    given = ((jnp.zeros((1, 2, 3), jnp.int32),), Condition(told.label[:1], (), told.text[:1]), KEYS[:1])
    model = Model(drawn(lambda key: prior.init(key, *given, method="loss"))["params"], {})
    asked = Asked(2, 0, Pick(), {"codes": (prior, model)})
    (every,) = in_chunks(asked, several)
    found = scored(asked.priors, (every,), several.text, 0, 1, several.label)
    np.testing.assert_array_equal(
        found, score.scores(prior, model, (every,), Condition(several.label, (), several.text), jnp.repeat(KEYS, 2))
    )
    rows = np.arange(2) * 3 + found.reshape(2, 3).argmax(axis=1)
    np.testing.assert_array_equal(best_drawn(asked, told, 3)[0], every[rows])
