"""The paper's VQ-VAE-2, beyond the contract: the bottom is told of the top. tests/compare recomputes all of it."""

import jax
import jax.numpy as jnp
import numpy as np
from small_models import WIDTH, build_case, quick

from vqvae_jax.autoencoders import VQVAE2
from vqvae_jax.quantizers import EMAQuantizer, VectorQuantizer


def test_the_joints_have_the_sizes_of_what_they_join():
    """Where the levels meet, with codes of another size each: kernels by hand."""
    model = VQVAE2((VectorQuantizer(512, 48), EMAQuantizer(256, 64)))
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda k, x: model.init(k, x, model.init_codebooks(k)), jax.random.key(0), images)["params"]
    want = {
        "encoder_bottom": {"down0": (4, 4, 3, 64), "down1": (4, 4, 64, 128), "conv": (3, 3, 128, 128)},
        "encoder_top": {"down0": (4, 4, 128, 64), "conv": (3, 3, 64, 128)},
        "to_code_top": (1, 1, 128, 48),
        "decoder_top": {"conv": (3, 3, 48, 128), "output": (4, 4, 128, 64)},
        "to_code_bottom": (1, 1, 64 + 128, 64),  # the decoded top, the image's features
        "upsample_top": (4, 4, 48, 64),
        "decoder": {"conv": (3, 3, 64 + 64, 128), "up0": (4, 4, 128, 64), "output": (4, 4, 64, 3)},
    }
    residual = {"conv1": (3, 3, 128, 32), "conv2": (1, 1, 32, 128)}
    for name in ("encoder_bottom", "encoder_top", "decoder_top", "decoder"):
        want[name] |= {"residual0": residual, "residual1": residual}
    has_kernel = lambda layer: "kernel" in layer  # noqa: E731
    assert jax.tree.map(lambda layer: layer["kernel"].shape, params, is_leaf=has_kernel) == want


def test_the_bottom_reads_the_codes_of_the_top_and_the_top_nothing_of_the_bottom():
    model, params, books, images = build_case("vqvae2")
    forward = quick(lambda books: model.apply(params, images, books))
    out = forward(books)

    def with_codes(level, change):
        return forward(books | {level: books[level].replace(codes=change(books[level].codes))})

    np.testing.assert_array_equal(with_codes("bottom", lambda codes: 2 * codes).tokens[0], out.tokens[0])
    assert (with_codes("top", lambda codes: -10 * codes).tokens[1] != out.tokens[1]).any()
    renumbered = with_codes("top", lambda codes: codes[::-1])  # other indices for the same codes
    np.testing.assert_array_equal(renumbered.tokens[0], 15 - out.tokens[0])
    np.testing.assert_array_equal(renumbered.images, out.images)
    assert renumbered.losses == out.losses


def test_the_top_alone_is_decoded_with_the_bottom_that_it_suggests():
    model, params, books, images = build_case("vqvae2")
    decode = quick(lambda *tokens: model.apply(params, tokens, books, method="decode"))
    out = quick(lambda p: model.apply(p, images, books))(params)
    joint = params["params"]["to_code_bottom"]
    # The decoded top comes first, and zeros for the rest add nothing.
    z_e = np.asarray(out.levels[0]) @ np.asarray(joint["kernel"])[0, 0, :WIDTH] + np.asarray(joint["bias"])
    distances = np.sum((z_e[..., None, :] - np.asarray(books["bottom"].codes)) ** 2, axis=-1)  # [B, h, w, K]
    suggested = distances.argmin(-1).astype(np.int32)
    assert (suggested != out.tokens[1]).any()
    np.testing.assert_allclose(decode(out.tokens[0]), decode(out.tokens[0], suggested), atol=1e-5)
