"""Two workdirs beside each other: what each prior is told of the other's images."""

import types

import numpy as np

from vqvae_jax.compare.models import told_right
from vqvae_jax.data.arrays import Arrays


def model(names, *told):
    priors = {f"level{i}": (types.SimpleNamespace(label_condition=one), None) for i, one in enumerate(told)}
    return types.SimpleNamespace(workdir="runs/b", label_names=names, priors=priors)


def test_a_prior_is_told_its_own_numbers_of_the_labels_or_none(capsys):
    """A's images, A's labels in A's order; B counts the same ones otherwise, C knows others."""
    arrays = Arrays(np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 1, 2]), ("cat", "dog", "owl"))
    other = model(("owl", "cat", "dog"), True, False)
    told = arrays.with_labels(other.label_names)
    assert [other.label_names[number] for number in told.label] == ["cat", "dog", "owl"]
    assert told_right(other, told) == ["level0", "level1"] and not capsys.readouterr().err
    third = model(("cat", "cow"), True, False)
    assert told_right(third, arrays.with_labels(third.label_names)) == ["level1"]
    assert "runs/b: no nll of level0" in capsys.readouterr().err
    assert told_right(model((), False), arrays) == ["level0"]
