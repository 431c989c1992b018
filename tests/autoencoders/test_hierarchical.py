"""The hierarchical VQ-VAE: shapes, levels, losses, and decoding from the coarse levels alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import WIDTH, drawn, quick

from vqvae_jax.autoencoders import AUTOENCODERS, HierarchicalVAE, layers
from vqvae_jax.autoencoders.hierarchical import level_names
from vqvae_jax.quantizers import VectorQuantizer
from vqvae_jax.types import UserError

LEVELS = pytest.mark.parametrize("levels", [1, 2, 3, 4])


def build(levels, quantizer=VectorQuantizer(16, WIDTH), **fields):
    """A small model, parameters drawn by numpy (jax's own take long to compile), and codebooks."""
    model = HierarchicalVAE((quantizer,) * levels, levels, **{"width": WIDTH} | fields)
    images = pictures(levels)
    books = model.init_codebooks(jax.random.key(1))
    if model.classes:
        images = jnp.round(images * (model.classes - 1)).astype(jnp.uint8)
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0), images, books)), books, images


def pictures(levels):
    side = HierarchicalVAE.stride({"levels": levels})
    return jnp.asarray(np.random.default_rng(0).random((2, side, 2 * side, 3)), jnp.float32)


@functools.cache
def everything(levels):
    """One compilation a number of levels: forward, encode, and decode from each prefix."""
    model, params, books, images = build(levels)

    def compute(params, books, images):
        tokens = model.apply(params, images, books, method="encode")
        decoded = [model.apply(params, tokens[:n], books, method="decode") for n in range(1, levels + 1)]
        return model.apply(params, images, books), tokens, decoded

    return model, books, images, *quick(compute)(params, books, images)


# --- any number of levels


@LEVELS
def test_maps_are_coarse_to_fine_and_outputs_have_their_shapes(levels):
    model, books, images, out, _, decoded = everything(levels)
    assert tuple(books) == model.level_names == level_names(levels)
    height, width = images.shape[1:3]
    maps = [(2, height // s, width // s) for s in (4 * 2**i for i in reversed(range(levels)))]
    assert [t.shape for t in out.tokens] == maps and {t.dtype for t in out.tokens} == {jnp.dtype("int32")}
    assert maps[0] == (2, 1, 2)  # the stride is what the image must be a multiple of
    assert [o.shape for o in out.levels] == [(*m, WIDTH) for m in maps[1:]] + [images.shape]
    assert [d.shape for d in decoded] == [images.shape] * levels
    assert out.images.shape == images.shape and out.images.dtype == jnp.float32


@LEVELS
def test_losses_are_named_by_term_and_level(levels):
    out = everything(levels)[3]
    names = level_names(levels)
    want = {f"{term}/{name}" for term in ("codebook", "commitment") for name in names}
    assert set(out.losses) == want | {f"feature/{name}" for name in names[1:]} | {"reconstruction"}
    assert all(loss.shape == () and loss.dtype == jnp.float32 for loss in out.losses.values())


@LEVELS
def test_each_level_adds_to_the_picture(levels):
    decoded = everything(levels)[5]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in itertools.pairwise(decoded))


def test_level_names():
    assert [level_names(n) for n in (1, 2, 3)] == [("codes",), ("top", "bottom"), ("top", "middle", "bottom")]
    assert level_names(4) == ("top", "middle1", "middle2", "bottom")


def test_as_many_quantizers_as_levels():
    model = HierarchicalVAE((VectorQuantizer(8, WIDTH),), 2, WIDTH)
    with pytest.raises(UserError, match="2 levels need as many quantizers, not 1"):
        model.init(jax.random.key(0), pictures(2), {})


def test_the_table_names_it():
    assert AUTOENCODERS["hierarchical"] is HierarchicalVAE
    assert [HierarchicalVAE.stride({"levels": n}) for n in (1, 2, 3)] == [4, 8, 16]


def test_each_level_has_a_codebook_of_its_own():
    books = HierarchicalVAE((VectorQuantizer(8, WIDTH),) * 2, 2, WIDTH).init_codebooks(jax.random.key(0))
    assert (books["top"].codes != books["bottom"].codes).any()


# --- what is filled in where lower maps are missing


def test_missing_levels_are_filled_in_one_after_the_other():
    """The bottom is filled in from the filled-in middle: what the real middle says would be a leak."""
    model, params, books, images = build(3)

    def compute(params):
        def both(m):
            top, middle, _ = m.encode(images, books)
            quantizer, codes = m.quantizers[0], lambda name, t: books[name].codes[t]
            guess = lambda name, z: quantizer(books[name], z).indices[0]  # noqa: E731
            filled = guess("middle", m.decoders[0]([codes("top", top)]))
            finest = guess("bottom", m.decoders[1]([codes("top", top), codes("middle", filled)]))
            leaked = guess("bottom", m.decoders[1]([codes("top", top), codes("middle", middle)]))
            decode = lambda *tokens: m.decode(tokens, books)  # noqa: E731
            return middle, filled, leaked, finest, decode(top), decode(top, filled), decode(top, filled, finest)

        return model.apply(params, method=both)

    middle, filled, leaked, finest, from_top, from_two, from_three = quick(compute)(params)
    assert (filled != middle).any() and (finest != leaked).any()  # else this test says nothing
    np.testing.assert_allclose(from_top, from_two, atol=1e-5)
    np.testing.assert_allclose(from_top, from_three, atol=1e-5)


def test_encoders_read_the_unquantized_output_below():
    """Another bottom codebook changes neither the top tokens nor what the top alone is decoded to… of features."""
    model, params, books, images = build(2)
    others = books | {"bottom": VectorQuantizer(8, WIDTH).init(jax.random.key(9))}
    run = quick(model.apply)
    one, other = run(params, images, books), run(params, images, others)
    np.testing.assert_array_equal(one.tokens[0], other.tokens[0])
    np.testing.assert_array_equal(one.levels[0], other.levels[0])  # the first decoder reads the top alone
    assert (one.tokens[1] != other.tokens[1]).any() and (one.images != other.images).any()


# --- gradients


def test_feature_targets_are_held():
    """A decoder learns to give the encoding; the encoding does not come to meet it."""
    model, params, books, images = build(2)

    def gradients(params):
        target = model.apply(params, images, method="features")[1]

        def by_hand(params, target):
            return jnp.mean((model.apply(params, images, books).levels[0] - target) ** 2)

        def moving(params):
            return by_hand(params, model.apply(params, images, method="features")[1])

        def loss(params):
            return model.apply(params, images, books).losses["feature/bottom"]

        return jax.grad(loss)(params), jax.grad(by_hand)(params, target), jax.grad(moving)(params)

    got, want, moving = quick(gradients)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    one, other = (tree["params"]["encoder_0"]["conv1"]["kernel"] for tree in (want, moving))
    assert np.abs(one - other).max() > 1e-3 * np.abs(other).max()
    assert np.abs(one).max() > 0  # through the top code, as the reference has it


# --- integer targets


def test_integer_images_are_learned_by_cross_entropy():
    model, params, books, images = build(2, classes=5)
    assert images.dtype == jnp.uint8 and images.max() == 4
    out = quick(model.apply)(params, images, books)
    logits = np.asarray(out.levels[-1], np.float64).reshape(*images.shape, 5)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(share, np.asarray(images)[..., None], -1)
    np.testing.assert_allclose(out.losses["reconstruction"], -np.log(chosen).mean(), rtol=1e-5)
    np.testing.assert_allclose(out.images, logits.argmax(-1) / 4, atol=1e-6)


def test_float_images_are_read_as_the_same_classes():
    model, params, books, images = build(1, classes=5)
    run = quick(model.apply)
    one, other = run(params, images, books), run(params, images / 4, books)
    np.testing.assert_allclose(one.losses["reconstruction"], other.losses["reconstruction"], rtol=1e-6)
    np.testing.assert_array_equal(one.tokens[0], other.tokens[0])
    decoded = quick(lambda p, t: model.apply(p, t, books, method="decode"))(params, one.tokens)
    np.testing.assert_array_equal(decoded, one.images)


# --- sizes and dtypes


def test_codes_of_another_size_are_projected_and_others_are_not():
    quantizers = (VectorQuantizer(8, 3), VectorQuantizer(8, WIDTH))
    model = HierarchicalVAE(quantizers, 2, WIDTH)
    books = model.init_codebooks(jax.random.key(0))
    params = jax.eval_shape(model.init, jax.random.key(0), pictures(2), books)["params"]
    assert params["to_code_top"]["kernel"].shape == (1, 1, WIDTH, 3)
    assert params["from_code_top"]["kernel"].shape == (1, 1, 3, WIDTH)
    assert not [name for name in params if name.endswith("_bottom")]
    assert set(params) == {"encoder_0", "encoder_1", "decoder_0", "decoder_1", "to_code_top", "from_code_top"}


def test_projected_codes_decode_as_in_the_forward_pass():
    model, params, books, images = build(2, VectorQuantizer(8, 3))

    def compute(params):
        out = model.apply(params, images, books)
        return out, [model.apply(params, out.tokens[:n], books, method="decode") for n in (1, 2)]

    out, decoded = quick(compute)(params)
    np.testing.assert_allclose(decoded[1], out.images, atol=1e-5)
    assert decoded[0].shape == images.shape


def test_the_seeds_class_names_stay():
    for name in ("QuarterEncoder", "HalfEncoder", "QuarterDecoder", "HalfDecoder", "HalfQuarterDecoder"):
        assert hasattr(layers, name)


@pytest.mark.parametrize(
    ("levels", "last"), [(1, ("conv1", "conv2")), (2, ("conv3", "conv4")), (3, ("up0", "output"))], ids=str
)
def test_a_smooth_start_is_of_the_last_two_doublings_alone(levels, last):
    images = pictures(levels)

    def fresh(smooth):
        model = HierarchicalVAE((VectorQuantizer(16, WIDTH),) * levels, levels, WIDTH, smooth_start=smooth)
        books = model.init_codebooks(jax.random.key(1))
        return quick(lambda key: model.init(key, images, books))(jax.random.key(0))["params"]

    plain, smooth = (jax.tree_util.tree_leaves_with_path(fresh(start)) for start in (False, True))
    other = {path[:-1] for (path, a), (_, b) in zip(plain, smooth, strict=True) if not np.array_equal(a, b)}
    assert {tuple(key.key for key in path) for path in other} == {(f"decoder_{levels - 1}", name) for name in last}


def test_a_smooth_start_shows_a_flat_map_flat():
    decoder = layers.decoder_for(1, 3, True, jnp.float32, "decoder", smooth=True)
    codes = [jnp.tile(jnp.arange(5.0), (1, 9, 9, 1))]
    picture = quick(decoder.init_with_output)(jax.random.key(0), codes)[0]
    middle = np.asarray(picture)[0, 12:-12, 12:-12].reshape(-1, 3)  # codes from the edge: 2 residual blocks, then 1
    np.testing.assert_allclose(middle, middle[:1].repeat(len(middle), 0), atol=1e-6)
    assert np.abs(middle).max() > 0.01
