"""Resizing beside PyTorch's, whose matrices are recorded."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.networks import resize

RECORDED = Path(__file__).resolve().parents[1] / "reference" / "var_quantizer.npz"
MATRICES = {"area": resize.area, "bicubic": resize.bicubic}


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_are_pytorchs(kind):
    with np.load(RECORDED) as file:
        recorded = {name: file[name] for name in file if f"resize/{kind}/" in name}
    assert len(recorded) == 9
    for name, want in recorded.items():
        before, after = map(int, name.rpartition("/")[2].split("to"))
        np.testing.assert_allclose(MATRICES[kind](before, after), want, atol=2e-7, err_msg=name)


def test_a_map_is_resized_along_both_axes():
    """Areas that divide are means of blocks; a flat map stays flat, and what has the size already is not touched."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 3)), jnp.float32)
    blocks = np.asarray(x).reshape(2, 2, 2, 2, 3, 3).mean((2, 4))
    np.testing.assert_allclose(resize.shrunk(x, (2, 2)), blocks, atol=1e-6)
    np.testing.assert_array_equal(resize.enlarged(x, (4, 6)), x)
    flat = jnp.ones((1, 3, 2, 1))
    np.testing.assert_allclose(resize.enlarged(flat, (7, 5)), 1.0, atol=1e-6)
