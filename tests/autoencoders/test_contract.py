"""What every autoencoder of the table does: `types.Autoencoder`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CASES, WIDTH, build_case, quick

from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.quantizers import EMAQuantizer

EVERY = pytest.mark.parametrize("case", CASES)


def test_every_autoencoder_of_the_table_is_here():
    assert {case.partition("-")[0] for case in CASES} == set(AUTOENCODERS)


@functools.cache
def everything(case):
    """One compilation a case: forward, encode, and decode from each prefix."""
    model, params, books, images = build_case(case)

    def compute(params, books, images):
        tokens = model.apply(params, images, books, method="encode")
        decoded = [model.apply(params, tokens[: n + 1], books, method="decode") for n in range(len(tokens))]
        return model.apply(params, images, books), tokens, decoded

    return model, books, images, *quick(compute)(params, books, images)


@EVERY
def test_names_maps_and_codebooks_agree(case):
    model, books, images, out, _, decoded = everything(case)
    kind, fields = AUTOENCODERS[case.partition("-")[0]], CASES[case]
    assert tuple(books) == model.level_names == kind.names(fields)
    assert set(out.codebooks) == set(books) and len(out.tokens) == len(books)
    assert {t.dtype for t in out.tokens} == {jnp.dtype("int32")}
    assert out.tokens[0].shape == (2, 1, 2)  # the stride is what an image must be a multiple of
    sides = [t.shape[1] for t in out.tokens]
    assert sides == sorted(sides)  # coarse to fine
    assert [d.shape for d in decoded] == [images.shape] * len(books)
    assert out.images.shape == images.shape and out.images.dtype == jnp.float32


@EVERY
def test_losses_are_named_scalars(case):
    model, _, _, out, *_ = everything(case)
    want = {f"{term}/{name}" for term in ("codebook", "commitment") for name in model.level_names}
    assert want | {"reconstruction"} <= set(out.losses)
    assert all(loss.shape == () and loss.dtype == jnp.float32 for loss in out.losses.values())


@EVERY
def test_decoding_the_encoding_is_the_forward_pass(case):
    model, books, images, out, tokens, decoded = everything(case)
    for got, want in zip(tokens, out.tokens, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(decoded[-1], out.images, atol=1e-5)
    away = np.abs(out.images - images)
    want = np.mean(away if getattr(model, "distance", "squared") == "absolute" else away**2)
    np.testing.assert_allclose(out.losses["reconstruction"], want, rtol=1e-5)
    np.testing.assert_array_equal(out.levels[-1], out.images)
    jax.tree.map(np.testing.assert_array_equal, out.codebooks, books)  # evaluation moves no code
    assert out.fresh == {}


@EVERY
def test_every_parameter_and_codebook_learns(case):
    model, params, books, images = build_case(case)

    def total(params, codes):
        changed = {name: book.replace(codes=codes[name]) for name, book in books.items()}
        return sum(model.apply(params, images, changed).losses.values())

    codes = {name: book.codes for name, book in books.items()}
    for path, gradient in jax.tree.leaves_with_path(quick(jax.grad(total, (0, 1)))(params, codes)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        # A bias of attention's keys adds the same to all scores of a place.
        assert np.abs(gradient).max() < 1e-5 if name.endswith("['k']['bias']") else np.abs(gradient).max() > 0, name


@EVERY
def test_the_last_kernel_is_where_the_image_is_made(case):
    """A gradient of the image reaches it, and nothing lies behind it but its bias: the image is linear in it."""
    model, params, books, images = build_case(case)
    path = model.last_kernel
    kernel = functools.reduce(lambda tree, name: tree[name], path, params["params"])
    assert kernel.ndim == 4 and set(kernel.shape[2:]) >= {images.shape[-1]}

    def image(kernel):
        return model.apply(replaced(params, ("params", *path), kernel), images, books).images

    def compute(kernel):
        made, pull = jax.vjp(image, kernel)
        return pull(jnp.ones_like(made))[0], made, image(2 * kernel), image(3 * kernel)

    gradient, once, twice, thrice = quick(compute)(kernel)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    np.testing.assert_allclose(thrice - twice, twice - once, atol=1e-4)


def replaced(tree, path, leaf):
    """A copy of nested dicts with another leaf at a path."""
    return {**tree, path[0]: replaced(tree[path[0]], path[1:], leaf)} if path else leaf


@EVERY
def test_training_moves_every_level_with_a_key_of_its_own(case):
    model, params, books, images = build_case(case, EMAQuantizer(8, WIDTH))
    out = quick(lambda key: model.apply(params, images, books, key=key, train=True))
    one, again, other = out(jax.random.key(0)), out(jax.random.key(0)), out(jax.random.key(1))
    assert set(one.fresh) == set(books) and all(fresh.any() for fresh in one.fresh.values())
    for name in books:
        assert (one.codebooks[name].codes != books[name].codes).any()
        np.testing.assert_array_equal(one.codebooks[name].codes, again.codebooks[name].codes)
        assert (one.codebooks[name].codes != other.codebooks[name].codes).any()


@EVERY
def test_bfloat16_keeps_parameters_codebooks_and_images_in_float32(case):
    model, params, books, images = build_case(case, EMAQuantizer(8, WIDTH))
    low = model.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(low.init, jax.random.key(0), images, books)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    out = jax.eval_shape(lambda p: low.apply(p, images, books, key=jax.random.key(2), train=True), params)
    before, after = jax.tree.leaves(books), jax.tree.leaves(out.codebooks)
    assert [leaf.dtype for leaf in after] == [leaf.dtype for leaf in before]
    assert out.images.dtype == jnp.float32 and out.levels[0].dtype == jnp.bfloat16
    tokens = tuple(jnp.zeros(t.shape, jnp.int32) for t in out.tokens)
    decode = lambda m: quick(lambda p: m.apply(p, tokens, books, method="decode"))(params)  # noqa: E731
    got, want = decode(low), decode(model)
    np.testing.assert_allclose(got, want, atol=0.04 * np.abs(want).max())
