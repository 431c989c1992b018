"""Every quantizer in a small model that learns: plain JAX, Flax Linen (the layer), Flax NNX, Equinox."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_quantizers import CASES, assert_same, small, vectors

from vqvae_jax.networks.quantize import QuantizerLayer
from vqvae_jax.quantizers import QUANTIZERS

EVERY = pytest.mark.parametrize("name", QUANTIZERS)
TX = optax.adam(0.01)
DATA = vectors(0, 8, 4, 4, 6)


def total(out, x_hat, x):
    return jnp.mean((x_hat - x) ** 2) + sum(out.losses.values())


def assert_learns(step, state):
    """40 steps; state and loss."""
    step, losses = jax.jit(step), []
    for i in range(40):
        state, loss = step(state, jax.random.key(i))
        losses.append(float(loss))
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    return state


@EVERY
def test_plain_jax(name):
    quantizer = small(name, codebook_size=32)
    size = quantizer.input_dim
    weights = {"in": jnp.asarray(vectors(1, 6, size)), "out": jnp.asarray(vectors(2, quantizer.output_dim, 6))}

    def step(state, key):
        params, book, moments = state

        def loss(params):
            weights, codes = params
            out = quantizer(book.replace(codes=codes), DATA @ weights["in"], key=key, train=True)
            return total(out, out.z_q @ weights["out"], DATA), out.codebook

        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = TX.update(grads, moments)
        params = optax.apply_updates((params[0], moved.codes), updates)
        return (params, moved, moments), value

    book = quantizer.init(jax.random.key(0))
    params = (weights, book.codes)
    assert_learns(step, (params, book, TX.init(params)))


class Linen(nn.Module):
    quantizer: object

    @nn.compact
    def __call__(self, x, train=False):
        out = QuantizerLayer(self.quantizer, name="quantizer")(nn.Dense(self.quantizer.input_dim)(x), train=train)
        return out, nn.Dense(6)(out.z_q)


@EVERY
def test_linen(name):
    model = Linen(small(name, codebook_size=32))
    variables = model.init(jax.random.key(0), DATA)
    by_gradient = "codebook" in model.apply(variables, DATA)[0].losses or name == "gumbel"
    assert ("quantizer" in variables["params"]) == by_gradient
    params, kept = variables["params"], variables["codebook"]
    apply = functools.partial(model.apply, mutable=["codebook"])

    def step(state, key):
        params, kept, moments = state

        def loss(params):
            (out, x_hat), moved = apply({"params": params, "codebook": kept}, DATA, True, rngs={"codebook": key})
            return total(out, x_hat, DATA), moved["codebook"]

        (value, kept), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = TX.update(grads, moments)
        return (optax.apply_updates(params, updates), kept, moments), value

    params, kept, _ = assert_learns(step, (params, kept, TX.init(params)))
    (out, _), after = apply({"params": params, "codebook": kept}, DATA)
    assert_same(after["codebook"], kept)  # evaluation moves nothing
    assert out.fresh is None


@pytest.mark.parametrize("name", CASES)
def test_the_linen_layer_is_the_quantizer(name):
    """Also after an optimizer has moved the codes: what the quantizer leaves, and its step on top."""
    quantizer = small(name)
    layer, z_e = QuantizerLayer(quantizer), vectors(1, 2, 4, 6, quantizer.input_dim)
    variables = layer.init(jax.random.key(0), z_e)
    book = variables["codebook"]["kept"]
    np.testing.assert_array_equal(layer.apply(variables, z_e).z_q, quantizer(book, z_e).z_q)
    if "params" in variables:
        added = jnp.asarray(vectors(2, *book.codes.shape)) * 0.1
        variables = {**variables, "params": variables["params"] | {"codes": added}}
        book = book.replace(codes=book.codes + added)
    out, moved = layer.apply(variables, z_e, train=True, rngs={"codebook": jax.random.key(1)}, mutable=["codebook"])
    added = variables.get("params", {}).get("codes", 0.0)
    np.testing.assert_allclose(moved["codebook"]["kept"].codes + added, out.codebook.codes, rtol=1e-5, atol=1e-6)
    assert_same(moved["codebook"]["kept"].stats, out.codebook.stats)


def test_the_linen_layer_wants_its_collection_mutable():
    layer = QuantizerLayer(small("ema"))
    variables = layer.init(jax.random.key(0), DATA[..., :4])
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        layer.apply(variables, DATA[..., :4], train=True, rngs={"codebook": jax.random.key(1)})


class Kept(nnx.Variable):
    """What only the quantizer moves."""


class NNX(nnx.Module):
    def __init__(self, quantizer, rngs):
        book = quantizer.init(rngs.params())
        self.quantizer = quantizer
        self.codes, self.stats = nnx.Param(book.codes), nnx.data({k: Kept(v) for k, v in book.stats.items()})
        self.encode = nnx.Linear(6, quantizer.input_dim, rngs=rngs)
        self.decode = nnx.Linear(quantizer.output_dim, 6, rngs=rngs)

    def book(self):
        book = self.quantizer.init(jax.random.key(0))
        return book.replace(codes=self.codes[...], stats={name: kept[...] for name, kept in self.stats.items()})


@EVERY
def test_nnx(name):
    graph, params, rest = nnx.split(NNX(small(name, codebook_size=32), nnx.Rngs(0)), nnx.Param, ...)

    def step(state, key):
        params, rest, moments = state

        def loss(params):
            model = nnx.merge(graph, params, rest)
            out = model.quantizer(model.book(), model.encode(DATA), key=key, train=True)
            return total(out, model.decode(out.z_q), DATA), out.codebook

        (value, moved), grads = jax.value_and_grad(loss, has_aux=True)(params)
        model = nnx.merge(graph, params, rest)
        model.codes[...] = moved.codes
        for name, kept in model.stats.items():
            kept[...] = moved.stats[name]
        _, params, rest = nnx.split(model, nnx.Param, ...)
        updates, moments = TX.update(grads, moments)
        return (optax.apply_updates(params, updates), rest, moments), value

    assert_learns(step, (params, rest, TX.init(params)))


@EVERY
def test_equinox(name):
    import equinox as eqx  # a second, for these alone

    quantizer = small(name, codebook_size=32)

    class Model(eqx.Module):
        encode: jax.Array
        decode: jax.Array
        book: object
        quantizer: object = eqx.field(static=True)

        def __call__(self, x, key):
            out = self.quantizer(self.book, x @ self.encode, key=key, train=True)
            return total(out, out.z_q @ self.decode, x), out.codebook

    size = quantizer.input_dim
    weights = jnp.asarray(vectors(1, 6, size)), jnp.asarray(vectors(2, quantizer.output_dim, 6))
    model = Model(*weights, quantizer.init(jax.random.key(0)), quantizer)

    def step(state, key):
        model, moments = state
        loss = eqx.filter_value_and_grad(lambda model: model(DATA, key), has_aux=True)
        (value, moved), grads = loss(model)
        updates, moments = TX.update(grads, moments, eqx.filter(model, eqx.is_inexact_array))
        stats = jax.tree.map(lambda _: None, grads.book.stats)  # they move by themselves
        updates = eqx.tree_at(lambda m: m.book.stats, updates, stats, is_leaf=lambda x: x is None)
        model = eqx.tree_at(lambda m: m.book, model, moved)
        return (eqx.apply_updates(model, updates), moments), value

    assert_learns(step, (model, TX.init(eqx.filter(model, eqx.is_inexact_array))))
