"""Small quantizers that tests of several rooms build, and what they are compared with."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from vqvae_jax.quantizers import QUANTIZERS

RECORDED = Path(__file__).parent / "reference" / "quantizers"
SMALL = {"codebook_size": 12, "code_dim": 4, "revive_after": 5, "levels": (5, 4, 3), "bits": 4, "scales": (1, 2)}
# Case: kind, then what its fields are beside SMALL; every kind of the table has one. `inner` is a case too.
CASES = {name: {} for name in QUANTIZERS} | {
    "vq-kmeans": {"kmeans_iterations": 3},
    "vq-rotation": {"rotation": True},
    "ema-kmeans": {"kmeans_iterations": 3},
    "cvq-random": {"anchor": "random"},
    "cvq-probabilistic": {"anchor": "probabilistic"},
    "cvq-sphere": {"distance": "sphere"},
    "cvq-cos": {"distance": "cos"},
    "cosine-kmeans": {"kmeans_iterations": 3},
    "lfq-groups": {"group": 2, "temperature": 0.5},
    "bsq-groups": {"group": 1, "temperature": 0.5},
    "gumbel-straight": {"straight_through": True},
    "gumbel-vectors": {"vector_dim": 6},
    "multiscale": {"inner": "ema"},
    "multiscale-vq": {"inner": "vq", "phis": 2, "dropout": 0.5},
    "multiscale-kmeans": {"inner": "ema-kmeans", "phis": 0},
    "multiscale-simvq": {"inner": "simvq"},
    "multiscale-shared": {"inner": "vq", "shared": True},
    "residual": {"depth": 3, "inner": "vq"},
    "residual-kmeans": {"depth": 2, "inner": "ema-kmeans"},
    "residual-dropout": {"depth": 3, "inner": "ema", "dropout": 0.7},
    "residual-shared": {"depth": 3, "inner": "ema", "shared": True},
    "residual-simvq": {"depth": 2, "inner": "simvq"},
    "residual-cvq": {"depth": 2, "inner": "cvq", "shared": True, "dropout": 0.5},
}


def small(case, **fields):
    """A small quantizer: of `fields` and of the values in SMALL it gets those that it has fields for."""
    kind = QUANTIZERS[case.partition("-")[0]]
    known = {field.name for field in dataclasses.fields(kind)}
    values = SMALL | CASES[case] | fields
    if "inner" in known:
        values["inner"] = small(values["inner"], **fields)
    return kind(**{name: value for name, value in values.items() if name in known})


def has_table(case):
    """Whether codes are kept at all: signs, finite scalars and numbers are none, simvq's are made of a frozen table."""
    return small(case).init(jax.random.key(0)).codes.size > 0


def map_sizes(quantizer, height, width):
    """(h, w) of each map of indices."""
    if not hasattr(quantizer, "scales"):
        return [(height, width)] * len(quantizer.vocab_sizes)
    side = quantizer.scales[-1]
    return [(height * scale // side, width * scale // side) for scale in quantizer.scales]


def vectors(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def stepper(quantizer):
    """One compiled training step."""
    return jax.jit(lambda book, z_e, key: quantizer(book, z_e, key=key, train=True))


def recorded(name):
    """What others' code did, by name."""
    with np.load(RECORDED / f"{name}.npz") as file:
        return dict(file)


def below(record, name):
    """What stands below a name."""
    return {key.removeprefix(f"{name}/"): value for key, value in record.items() if key.startswith(f"{name}/")}


def near(ours, theirs, tolerance=3e-6):
    """As far apart as so many times the largest of theirs."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def assert_same(got, want):
    """Bit for bit, shapes and dtypes included."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


def kinds(tree):
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)


def losses_of(quantizer, term):
    return lambda codes, book, z_e: quantizer(book.replace(codes=codes), z_e).losses[term]


def nearest_by_hand(z, codes):
    """[N, D], [K, D] → [N], in float64, the first on ties."""
    z, codes = np.asarray(z, np.float64), np.asarray(codes, np.float64)
    return ((z[:, None] - codes[None]) ** 2).sum(-1).argmin(-1)


def unit(x):
    """[..., D] float64, each of length 1."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def is_row_of(rows, table, atol=0.0):
    """Which rows stand in the table: [M, D], [N, D] → bool [M]."""
    return (np.abs(np.asarray(rows)[:, None] - np.asarray(table)[None]) <= atol).all(-1).any(1)
