"""SimVQ beside lucidrains' vector-quantize-pytorch, and the rotation trick, which is recorded from it too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import below, near, nearest_by_hand, recorded, small, vectors

from vqvae_jax.quantizers import SimVQuantizer, VectorQuantizer
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.quantizers.simvq import codes_of

BETA = 0.25


def test_it_is_lucidrains():
    """Codes, indices, loss, and all gradients; the matrix's is of the loss alone, so z_q passes none to it."""
    at = below(recorded("simvq"), "simvq")
    quantizer = SimVQuantizer(*at["codes"].shape)
    book = quantizer.init(jax.random.key(0))
    matrix = jnp.asarray(at["param/code_transform.weight"].T)
    book = book.replace(
        params={"matrix": matrix}, stats=book.stats | {"table": jnp.asarray(at["param/frozen_codebook"])}
    )

    def total(x, matrix):
        out = quantizer(book.replace(params={"matrix": matrix}), x, train=True)
        loss = out.losses["codebook"] + BETA * out.losses["commitment"]
        return jnp.mean(out.z_q * at["weight_on_z_q"]) + loss, (out, loss)

    (to_x, to_matrix), (out, loss) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(at["x"], matrix)
    near(codes_of(book), at["codes"])
    np.testing.assert_array_equal(out.indices[0], at["indices"])
    near(out.z_q, at["z_q"])
    near(loss, at["loss"])
    near(to_x, at["grad_x"])
    near(to_matrix.T, at["grad/code_transform.weight"])


def test_a_step_moves_all_codes_and_the_table_never():
    quantizer = small("simvq")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)

    def loss(params):
        out = quantizer(book.replace(params=params), z_e, train=True)
        return out.losses["codebook"], out.codebook

    grads, moved = jax.grad(loss, has_aux=True)(book.params)
    np.testing.assert_array_equal(moved.stats["table"], book.stats["table"])
    after = moved.replace(params={"matrix": book.params["matrix"] - 0.1 * grads["matrix"]})
    assert np.all(np.abs(codes_of(after) - codes_of(book)).max(-1) > 0)
    to_table = jax.grad(
        lambda table: quantizer(book.replace(stats=book.stats | {"table": table}), z_e).losses["codebook"]
    )
    assert not np.any(to_table(book.stats["table"]))


def test_it_counts_how_long_a_code_is_unused():
    quantizer = small("simvq")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    out = quantizer(book, z_e, train=True)
    used = nearest_by_hand(z_e.reshape(-1, 4), codes_of(book))
    np.testing.assert_array_equal(np.ravel(out.indices[0]), used)
    np.testing.assert_array_equal(out.codebook.stats["idle"], np.where(np.isin(np.arange(12), used), 0, 1))


def test_matrix_and_codes_stay_float32_in_a_bfloat16_network():
    quantizer = small("simvq")
    book = quantizer.init(jax.random.key(0))
    out = quantizer(book, jnp.asarray(vectors(1, 2, 3, 4), jnp.bfloat16), train=True)
    assert codes_of(book).dtype == book.params["matrix"].dtype == jnp.float32 and out.z_q.dtype == jnp.bfloat16


# --- the rotation trick


@pytest.mark.parametrize("rotation", [False, True])
def test_the_rotation_trick_is_lucidrains(rotation):
    """Their value is a product of float32, 4e-7 off the code; ours is the code. The gradient is theirs."""
    record = below(recorded("vq_lucidrains"), "vector_quantize")
    at = below(record, "rotation" if rotation else "straight_through")
    quantizer = VectorQuantizer(*record["codes"].shape, rotation=rotation)
    book = quantizer.init(jax.random.key(0)).replace(codes=jnp.asarray(record["codes"]))
    out = quantizer(book, record["x"])
    np.testing.assert_array_equal(out.indices[0], at["indices"])
    np.testing.assert_array_equal(out.z_q, record["codes"][at["indices"]])
    near(out.z_q, at["z_q"], 1e-6)
    near(BETA * out.losses["commitment"], at["loss"])
    of_z_q = jax.grad(lambda x: jnp.mean(quantizer(book, x).z_q * record["weight_on_z_q"]))(record["x"])
    of_loss = jax.grad(lambda x: BETA * quantizer(book, x).losses["commitment"])(record["x"])
    near(of_z_q, at["grad_x_of_z_q"])
    near(of_loss, at["grad_x_of_loss"])


def test_the_gradient_keeps_its_angle_to_the_code():
    """What the paper is about; and its length grows as the code is longer than the vector."""
    z, codes, weight = vectors(1, 50, 6), vectors(2, 50, 6), vectors(3, 50, 6)
    got = np.asarray(jax.grad(lambda z: jnp.sum(cb.rotated(z, codes) * weight))(z))
    length = lambda x: np.linalg.norm(x, axis=-1)  # noqa: E731
    cosine = lambda a, b: np.sum(a * b, -1) / (length(a) * length(b))  # noqa: E731
    np.testing.assert_allclose(cosine(got, z), cosine(weight, codes), atol=1e-5)
    np.testing.assert_allclose(length(got), length(weight) * length(codes) / length(z), rtol=1e-4)


def test_rotation_where_there_is_no_angle():
    """No length, the very code, the opposite of it: finite, and the value is the code."""
    code = np.array([[1.0, 2.0, 2.0]], np.float32)
    for z in (np.zeros_like(code), code, -code):
        value, gradient = jax.value_and_grad(lambda z: jnp.sum(cb.rotated(z, code)))(z)
        assert float(value) == 5 and np.isfinite(gradient).all()


def test_rotation_changes_the_encoder_s_gradient_alone():
    quantizer, z_e = small("vq"), vectors(1, 2, 3, 5, 4)
    turned, book = dataclasses.replace(quantizer, rotation=True), quantizer.init(jax.random.key(0))
    loss = lambda codes, z, one: jnp.sum(one(book.replace(codes=codes), z).z_q ** 2)  # noqa: E731
    assert not np.any(jax.grad(loss)(book.codes, z_e, turned))
    plain, other = (jax.grad(loss, 1)(book.codes, z_e, one) for one in (quantizer, turned))
    assert np.abs(plain - other).max() > 0.1
