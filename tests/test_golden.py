"""What was trained at version 0.1 loads, gives the same tokens and pictures, and is trained on, for ever.

The workdirs of tests/golden are not made anew, see scripts/golden.py: where a test fails, the code is to be put right.
"""

import contextlib

import numpy as np
import pytest

from scripts import golden
from vqvae_jax.quantizers import QUANTIZERS

TOO = ("ema", "residual")  # take half a minute
NAMES = [pytest.param(name, marks=pytest.mark.thorough) if name in TOO else name for name in golden.CASES]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_trained_gives_what_it_gave(name, tmp_path):
    """Another processor may round otherwise: tokens are equal, pictures may differ by 1, numbers by 1e-6."""
    with np.load(golden.GOLDEN / f"{name}.npz") as file:
        wanted = dict(file)
    with contextlib.chdir(tmp_path):  # the config names its data relative to it
        got = golden.results(golden.unpacked(name, tmp_path))
    assert set(wanted) <= set(got)
    for what, array in wanted.items():
        assert (got[what].dtype, got[what].shape) == (array.dtype, array.shape), what
        np.testing.assert_allclose(got[what].astype(float), array.astype(float), rtol=0, atol=gap(array), err_msg=what)


def gap(array):
    """What a value may differ by."""
    if array.dtype == np.uint8:
        return 1
    return 0 if array.dtype.kind in "iu" else 1e-6 * np.abs(array).max()


def test_each_quantizer_has_its_workdir():
    """One that comes later gets one with its release: scripts/golden.py adds what is missing."""
    quantizers = {quantizer["name"] for _, quantizer, _, _ in golden.CASES.values()}
    priors = {prior["name"] for _, _, _, priors in golden.CASES.values() for prior in priors.values()}
    assert {"vq", "ema", "cvq", "cosine", "fsq", "residual"} <= quantizers <= set(QUANTIZERS)
    assert {"pixelcnn", "transformer"} <= priors
