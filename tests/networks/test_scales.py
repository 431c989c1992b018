"""Running sums of scales beside the authors' recorded ones."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.networks.scales import embedded, new_phis, phi_of, running

RECORDED = Path(__file__).resolve().parents[1] / "reference" / "var_quantizer.npz"


@pytest.mark.parametrize(
    "count,of_scales",
    [(4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (4, [0, 0, 1, 2, 3, 3]), (4, [0, 1, 2, 2, 3]), (1, [0, 0]), (3, [0, 1, 2])],
    ids=str,
)
def test_which_phi_a_scale_has(count, of_scales):
    """The authors' lists, of 10, 6 and 5 scales; one for all; one each."""
    scales = len(of_scales)
    assert [phi_of(scale, scales, count) for scale in range(scales)] == of_scales


@pytest.mark.parametrize("size", ["small", "wide"])
def test_sums_are_the_authors(size):
    with np.load(RECORDED) as file:
        arrays = {name.partition("/")[2]: file[name] for name in file if name.startswith(size)}
    scales, weight = len(arrays["meta/patch_nums"]), "param/quant_resi.qresi_ls.{}.weight"
    phis = {
        "kernel": jnp.stack([arrays[weight.format(i)].transpose(2, 3, 1, 0) for i in range(4)]),
        "bias": jnp.stack([arrays[weight.format(i).replace("weight", "bias")] for i in range(4)]),
    }
    maps = tuple(jnp.asarray(arrays[f"output/indices/{i}"]) for i in range(scales))
    shape = maps[-1].shape[1:]
    sums = running(embedded(jnp.asarray(arrays["param/embedding.weight"]), maps), phis, shape)
    for i, one in enumerate(sums):
        np.testing.assert_allclose(one, arrays[f"output/f_hat/{i}"].transpose(0, 2, 3, 1), atol=3e-6)
    first = running(embedded(jnp.asarray(arrays["param/embedding.weight"]), maps[:2]), phis, shape, scales)
    np.testing.assert_array_equal(first[1], sums[1])


def test_without_phi_it_is_the_plain_sum_of_enlarged_maps():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    maps = jnp.array([[[4]]]), jnp.array([[[0, 1], [2, 3]]])
    (one, both) = running(embedded(table, maps), new_phis(jnp.zeros(2, jnp.uint32), 0, 3), (2, 2))
    np.testing.assert_allclose(one, jnp.broadcast_to(table[0, 4], (1, 2, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(both - one, table[1, :4].reshape(1, 2, 2, 3), atol=1e-6)
