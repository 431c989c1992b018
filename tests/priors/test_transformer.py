"""The causal transformer beyond the contract: recomputed by numpy, its start token, labels, depths, tying, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABELS, built, drawn, listening_sampler, made, maps, replayed

from vqvae_jax.priors.condition import told_label, told_text
from vqvae_jax.priors.raster import raster
from vqvae_jax.types import Condition, Pick, UserError

LABEL = "transformer-tied, label"
TEXT = "transformer-text, label, coarse"
FORETOLD = "transformer-text foretold, pooled"
COARSE = "transformer-two coarse, label"
DEPTHS = "transformer-depths, coarse"


def by_hand(prior, params, tokens, condition):
    """The logits of one example in float64, position by position, with no mask: each reads a prefix of its own."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    table = lambda name: p[name]["embedding"]  # noqa: E731
    height, width = prior.shape
    sequence, places = [], []
    for level, one in enumerate(condition.coarse):
        one = np.asarray(one)
        for row, column in np.ndindex(one.shape):
            sequence.append(table(f"embed_coarse_{level}")[one[row, column]])
            first = row * height // one.shape[0], column * width // one.shape[1]
            places.append(table("place_row")[first[0]] + table("place_column")[first[1]] + table("place_level")[level])
    prefix = texts_by_hand(prior, p, condition) if prior.text else []
    told = len(prefix) + len(sequence)
    start = table("embed")[prior.vocab_size]
    if prior.label_condition:
        start = start + table("embed_label")[LABELS if condition.label is None else int(condition.label)]
    flat = np.asarray(tokens).ravel()
    sequence += [start, *(table("embed")[token] for token in flat[:-1])]
    for row, column, depth in np.ndindex(height, width, prior.depths):
        place = table("place_row")[row] + table("place_column")[column]
        place = place + (table("place_level")[-1] if prior.above else 0)
        if prior.pooled_text:
            place = place + np.mean([table("pool_text")[word] for word in np.asarray(condition.text) if word], axis=0)
        for level, one in enumerate(condition.coarse if prior.told_above else ()):
            over = np.asarray(one)[row * one.shape[0] // height, column * one.shape[1] // width]
            place = place + table(f"embed_above_{level}")[over]
        places.append(place + (table("place_depth")[depth] if prior.depths > 1 else 0))

    def norm(x, name, inside):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * inside[name]["norm"]["scale"] + inside[name]["norm"]["bias"]

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def block(x, inside):
        out = []
        for s in range(len(x)):
            q, k, v = np.split(dense(norm(x[: s + 1], "norm1", inside), inside["qkv"]), 3, -1)
            heads = []
            for h in np.split(np.arange(prior.width), prior.heads):
                weight = np.exp(k[:, h] @ q[-1, h] / np.sqrt(len(h)))
                heads.append(weight @ v[:, h] / weight.sum())
            y = x[s] + dense(np.concatenate(heads), inside["mix_heads"])
            up = dense(norm(y, "norm2", inside), inside["up"])
            gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
            out.append(y + dense(gelu, inside["down"]))
        return np.stack(out)

    x = np.concatenate([*prefix, np.stack(sequence) + np.stack(places)])
    for i in range(prior.layers):
        x = block(x, p[f"blocks_{i}"])
    x = norm(x[told:], "norm", p)
    logits = x @ (table("embed")[: prior.vocab_size].T if prior.tied else p["to_logits"]["kernel"])
    return logits.reshape(*np.shape(tokens), prior.vocab_size)


def texts_by_hand(prior, p, condition):
    """What stands in front, [1, W] each; the padding of a place is that place's own."""
    tables = {name: one["embedding"] for name, one in p["prefix"].items() if "embedding" in one}
    words = [tables["words"][word] if word else tables["padding"][i] for i, word in enumerate(condition.text.tolist())]
    begin = [tables["begin"]] if prior.foretell_text else []
    return [*begin, *(one[None] for one in words + tables["places"])]


@pytest.mark.parametrize("case", ["transformer", LABEL, COARSE, DEPTHS, TEXT, FORETOLD])
def test_the_logits_recomputed_by_numpy(case):
    prior, params = built(case)
    tokens, condition = maps(prior, 2, seed=3)
    got = quick(prior.apply)(params, tokens, condition)
    for i in range(2):
        want = by_hand(prior, params, tokens[i], jax.tree.map(lambda a, i=i: a[i], condition))
        np.testing.assert_allclose(got[i], want, atol=1e-4 * np.abs(want).max())


def test_the_published_sizes():
    """GPT-2's block: 12 W² weights; start and no-label rows beyond the codes and labels."""
    prior = made("transformer", 100, (7, 7), num_labels=10, label_condition=True)
    shapes = jax.eval_shape(lambda key: prior.init(key, *maps(prior, 1)), jax.random.key(0))["params"]
    assert shapes["embed"]["embedding"].shape == (101, 128) and shapes["to_logits"]["kernel"].shape == (128, 100)
    assert shapes["embed_label"]["embedding"].shape == (11, 128)
    kernels = [leaf.size for path, leaf in jax.tree.leaves_with_path(shapes["blocks_0"]) if path[-1].key == "kernel"]
    assert sum(kernels) == 12 * 128**2 and "blocks_2" in shapes and "blocks_3" not in shapes
    assert "place_level" not in shapes and "place_depth" not in shapes
    tied = jax.eval_shape(lambda key: prior.clone(tied=True).init(key, *maps(prior, 1)), jax.random.key(0))["params"]
    assert "to_logits" not in tied


def test_fresh_parameters_are_small_and_the_first_guess_is_near_uniform():
    prior = made("transformer", CODES, (3, 4), width=64, layers=2, heads=4)
    tokens, condition = maps(prior, 2)
    params = quick(prior.init)(jax.random.key(0), tokens, condition)
    block = params["params"]["blocks_0"]
    assert np.std(block["up"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(block["down"]["kernel"]) == pytest.approx(0.02 / 2, rel=0.05)
    assert np.std(block["mix_heads"]["kernel"]) == pytest.approx(0.02 / 2, rel=0.05)
    assert np.abs(quick(prior.apply)(params, tokens, condition)).max() < 1


@pytest.mark.parametrize("case", ["transformer", LABEL])
def test_the_start_token_is_no_code_and_is_never_drawn(case):
    prior, params = built(case)
    tokens, condition = maps(prior, 64)
    params = jax.tree.map(jnp.copy, params)
    table = params["params"]["embed"]["embedding"]
    params["params"]["embed"]["embedding"] = table.at[CODES].set(10 * table[CODES])  # tied, it would be the likeliest
    assert quick(prior.apply)(params, tokens, condition).shape[-1] == CODES
    pick = Pick(temperature=100.0)
    keys = jax.random.split(jax.random.key(0), 64)
    (drawn,) = quick(lambda c: prior.apply(params, keys, c, pick, method="sample"))(condition)
    assert set(np.unique(drawn)) == set(range(CODES))


def test_coarse_maps_and_label_reach_every_position_of_every_depth():
    for case in (COARSE, DEPTHS):
        prior, params = built(case)
        tokens, condition = maps(prior, 1)
        others = [
            condition._replace(coarse=(*condition.coarse[:i], (c + 1) % level.vocab_size, *condition.coarse[i + 1 :]))
            for i, (c, level) in enumerate(zip(condition.coarse, prior.above, strict=True))
        ]
        if prior.label_condition:
            others.append(condition._replace(label=condition.label + 1))
        run = quick(prior.apply)
        one = run(params, tokens, condition)
        assert all((np.abs(run(params, tokens, other) - one).max(-1) > 0).all() for other in others)


def test_a_coarse_cell_has_the_place_of_what_lies_under_it():
    level, row, column, depth = raster([(2, 2), (2, 3), (4, 6)], 2)
    assert len(level) == 4 + 6 + 4 * 6 * 2
    assert row[:4].tolist() == [0, 0, 2, 2] and column[:4].tolist() == [0, 3, 0, 3]
    assert column[4:10].tolist() == [0, 2, 4] * 2 and level[:10].tolist() == [0] * 4 + [1] * 6
    assert depth[10:14].tolist() == [0, 1, 0, 1] and column[10:14].tolist() == [0, 0, 1, 1] and set(level[10:]) == {2}


def test_guidance_moves_away_from_what_is_said_without_the_label(monkeypatch):
    prior, params = built(COARSE)
    _, condition = maps(prior, 2)
    key, pick = jax.random.split(jax.random.key(5)), Pick(guidance=2.5, top_k=3)
    tokens, logits = listening_sampler(prior, 2, pick, monkeypatch)(params, key, condition)
    run = quick(prior.apply)
    given = run(params, jnp.asarray(tokens), condition)
    blind = run(params, jnp.asarray(tokens), condition._replace(label=None))
    want = blind + 2.5 * (given - blind)
    np.testing.assert_allclose(logits, want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_array_equal(tokens, replayed(prior, key, want, pick))


def test_guidance_leaves_out_the_label_and_the_text(monkeypatch):
    prior, params = built(TEXT)
    _, condition = maps(prior, 2)
    key, pick = jax.random.split(jax.random.key(5)), Pick(guidance=2.5)
    tokens, logits = listening_sampler(prior, 2, pick, monkeypatch)(params, key, condition)
    run = quick(prior.apply)
    given = run(params, jnp.asarray(tokens), condition)
    blind = run(params, jnp.asarray(tokens), Condition(None, condition.coarse))
    want = blind + 2.5 * (given - blind)
    np.testing.assert_allclose(logits, want, atol=2e-5 * np.abs(want).max())


def test_a_text_is_hidden_in_training_independently_of_the_label():
    """Of 400 examples a share of 0.5 each: about a quarter has both, one alone, the other alone, none."""
    prior, _ = built(TEXT)
    prior = prior.clone(label_dropout=0.5, text_dropout=0.5)
    condition = Condition(jnp.zeros(400, jnp.int32), (), jnp.ones((400, prior.text.length), jnp.int32))

    def told(module):
        return told_label(module, condition, 400, True), told_text(module, condition, 400, True)

    label, text = prior.apply({}, method=told, rngs={"dropout": jax.random.key(0)})
    assert ((text == 0) == (text[:, :1] == 0)).all()  # the whole text
    shares = np.histogram2d(label == LABELS, text[:, 0] == 0, bins=2)[0] / 400
    np.testing.assert_allclose(shares, 0.25, atol=0.07)


def test_no_label_is_the_label_after_the_last():
    prior, params = built(LABEL)
    tokens, condition = maps(prior, 2)
    run = quick(prior.apply)
    null = run(params, tokens, Condition(jnp.full(2, LABELS, jnp.int32)))
    np.testing.assert_allclose(run(params, tokens, Condition()), null, atol=1e-6)
    assert (null != run(params, tokens, condition)).any()


def test_labels_are_hidden_in_training_only():
    prior, params = built(LABEL)
    tokens, condition = maps(prior, 3)
    hide = prior.clone(label_dropout=1.0)
    run = quick(lambda p, c, key: hide.apply(p, tokens, c, train=True, rngs={"dropout": key}))
    hidden = run(params, condition, jax.random.key(0))
    plain = quick(hide.apply)
    np.testing.assert_allclose(hidden, plain(params, tokens, Condition()), atol=1e-5)
    assert (np.abs(hidden - plain(params, tokens, condition)).max((1, 2, 3)) > 1e-3).all()  # evaluation hides none


def test_dropout_acts_in_training_only_and_by_its_key():
    prior, params = built("transformer")
    dropping = prior.clone(dropout=0.5)
    tokens, condition = maps(prior, 2)
    run = quick(lambda key: dropping.apply(params, tokens, condition, train=True, rngs={"dropout": key}))
    one, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    still = quick(dropping.apply)(params, tokens, condition)
    np.testing.assert_array_equal(still, quick(prior.apply)(params, tokens, condition))
    assert (still != one).any()


def test_tied_logits_are_products_with_the_codes_own_vectors():
    """A change of one code's vector, which no token here uses, changes that code's logits alone."""
    prior, params = built(LABEL)
    tokens, condition = maps(prior, 2)
    tokens = tokens % (CODES - 1)
    changed = jax.tree.map(jnp.copy, params)
    changed["params"]["embed"]["embedding"] = params["params"]["embed"]["embedding"].at[CODES - 1].multiply(2.0)
    one, other = (quick(prior.apply)(p, tokens, condition) for p in (params, changed))
    np.testing.assert_array_equal(one[..., :-1], other[..., :-1])
    np.testing.assert_allclose(other[..., -1], 2 * one[..., -1], rtol=1e-5)


def test_bfloat16_logits_are_near_those_of_float32():
    prior, params = built(COARSE)
    tokens, condition = maps(prior, 2)
    want = quick(prior.apply)(params, tokens, condition)
    got = quick(prior.clone(dtype=jnp.bfloat16).apply)(params, tokens, condition)
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_heads_divide_the_width():
    prior = made("transformer", CODES, (2, 2), width=10, heads=4)
    with pytest.raises(UserError, match="width=10 does not divide among heads=4"):
        prior.init(jax.random.key(0), *maps(prior, 1))


def test_where_nothing_lies_over_it_nothing_is_told():
    """A top level: one set of fields may serve all of a config's priors."""
    plainly = made("transformer", 6, (2, 3), width=8, layers=1, heads=2)
    tokens, condition = maps(plainly, 2)
    variables, told = drawn(lambda key: plainly.init(key, tokens, condition)), plainly.clone(told_above=True)
    np.testing.assert_array_equal(*(prior.apply(variables, tokens, condition) for prior in (plainly, told)))
    keys = jax.random.split(jax.random.key(0), 2)
    new = [prior.apply(variables, keys, condition, Pick(), method="sample") for prior in (plainly, told)]
    np.testing.assert_array_equal(*(one for maps in new for one in maps))


def test_each_place_is_told_what_lies_over_it():
    """Without its layers nothing else tells: another coarse token changes the logits of the places under it."""
    prior = made(
        "transformer", 6, (4, 6), (5, 7), ((2, 2), (2, 3)), depths=2, width=8, layers=1, heads=2, told_above=True
    )
    tokens, condition = maps(prior, 2)
    variables = drawn(lambda key: prior.init(key, tokens, condition))
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["blocks_0"])
    variables = {"params": variables["params"] | {"blocks_0": silent}}
    before = prior.apply(variables, tokens, condition)
    for number, (rows, columns) in enumerate([(slice(2, 4), slice(0, 3)), (slice(2, 4), slice(0, 2))]):
        other = condition.coarse[number].at[:, 1, 0].add(1) % prior.above[number].vocab_size
        coarse = tuple(other if i == number else one for i, one in enumerate(condition.coarse))
        changed = (prior.apply(variables, tokens, Condition(None, coarse)) != before).any(-1)
        under = np.zeros(changed.shape, bool)
        under[:, rows, columns] = True
        np.testing.assert_array_equal(changed, under)
