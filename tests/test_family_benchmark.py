"""The benchmark of all quantizers: what is trained next, its table and picture, quantizers of equal bits."""

import json
import math
import types

import numpy as np
import pytest

from benchmarks import family
from vqvae_jax import config as configs
from vqvae_jax.parts import build_quantizer
from vqvae_jax.types import UserError


def given(*words):
    return family.parser().parse_args(["train", "--json=FILE.json", *words])


def found():
    run = {"psnr": 20.0, "ssim": 0.5, "usage": 1.0, "perplexity": 200.0, "bits_per_pixel": 0.4}
    ema = {"0": run, "1": run | {"psnr": 22.0}}
    runs = {"8": {"kl": {"0": {"psnr": 25.0, "ssim": 0.8}}, "ema": ema}, "10": {"lfq": {"0": run}}}
    return {"of": {"task": "openmoji"}, "runs": runs, "ms": {"8": {"ema": 12.34}}}


def test_it_goes_on_with_what_is_missing():
    """Of the first bits all quantizers with one seed, then with the next; the ceiling at the first bits alone."""
    left = list(family.wanted(given("--seeds=2"), found()))
    assert len(left) == 2 * len(family.NAMES) - 3 + 2 * 2 * (len(family.NAMES) - 1) - 1
    assert left[0] == (8, 0, "vq") and left[-1] == (16, 1, "multiscale")
    assert [one for one in left if one[2] == "kl"] == [(8, 1, "kl")]
    assert list(family.wanted(given("--only=lfq", "--bits=10"), found())) == [(10, 1, "lfq"), (10, 2, "lfq")]


@pytest.mark.parametrize("bits, seed, there", [(8, 2, True), (16, 0, True), (16, 1, False)])
def test_a_prior_of_the_first_seed_alone_where_it_is_dear(bits, seed, there, monkeypatch):
    monkeypatch.setattr(family, "reconstructed", lambda trainer, model: None)
    near = types.SimpleNamespace(measure=lambda made: {})
    trainer = types.SimpleNamespace(
        train=lambda seed: None, measure=lambda model: {"psnr": 20.0}, bits=lambda model, seed: {"bits_per_pixel": 0.4}
    )
    found = family.measured(trainer, "ema", seed, near, prior=seed < family.PRIORS[bits])
    assert found == {"psnr": 20.0} | ({"bits_per_pixel": 0.4} if there else {})


def test_the_table():
    head, _, ema, kl, lfq = family.table(found())
    assert head.startswith("| bits | quantizer | seeds | PSNR, dB |")
    assert ema == "| 8 | ema | 2 | 21.00 ± 1 | 0.500 | – | – | 100.0 % | 200 | 0.400 | 12.3 | – |"
    assert kl.startswith("| – | kl | 1 | 25.00 | 0.800 | – |") and lfq.startswith("| 10 | lfq | 1 | 20.00 |")


def test_the_picture(tmp_path):
    family.family_plot.draw([found()], family.NAMES, tmp_path / "family.png")
    assert (tmp_path / "family.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("bits", family.BITS)
def test_all_have_as_many_codes(bits):
    """`multiscale` at each of its scales; `kl` has none."""
    for name, (fields, _) in family.quantizers(bits, 800).items():
        config = configs.complete({**family.codebooks.BARE, "autoencoder": {"name": "vqvae", "quantizer": fields}})
        sizes = build_quantizer(config["autoencoder"]["quantizer"]).vocab_sizes
        if name == "kl":
            assert sizes == (None,)
        elif name == "multiscale":
            assert sizes == (2**bits,) * 4
        else:
            assert math.prod(sizes) == 2**bits, name


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"of": {}, "runs": {"ema": {}}}))
    with pytest.raises(UserError, match="was not written by `family.py train`"):
        family.read_runs(path)
    with pytest.raises(UserError, match="wants --data=FILE.npz"):
        family.read_images(given("--task=cifar"))


def test_without_frozen_nets_there_are_no_distances(monkeypatch):
    monkeypatch.setattr(family.nearness, "frozen_net", lambda: None)
    images = {part: np.zeros((64, 32, 32, 3), np.uint8) for part in ("train", "test")}
    assert family.Near(images).measure(images["test"]) == {}
