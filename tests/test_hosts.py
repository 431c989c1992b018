"""Several processes, each with devices of its own, train one run: two of them on this machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_recipe import models, trained_run

ROOT = Path(__file__).resolve().parents[1]
HOST = """
import sys
import jax
address, count, number, config, workdir = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(number))
from vqvae_jax import config as configs
from vqvae_jax import recipe
recipe.run(configs.load(config), workdir)
"""


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def hosts(count, config, workdir):
    """Runs the recipe on so many processes; their outputs."""
    address = f"localhost:{free_port()}"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    command = [sys.executable, "-c", HOST, address, str(count)]
    started = [
        subprocess.Popen(
            [*command, str(number), str(config), str(workdir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * count, said
    return said


@pytest.mark.thorough
def test_two_hosts_train_evaluate_and_sample_as_one_does(tmp_path_factory, tmp_path):
    """Each takes its slice of the same batches; sums over both give the same codebooks and weights."""
    alone, _ = trained_run(tmp_path_factory)
    together = tmp_path / "run"
    said = hosts(2, alone, together)
    for stage, one in models(alone).items():
        other = models(together)[stage]
        for path, (a, b) in pairs(one, other):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3, err_msg=f"{stage}: {path}")
    metrics = [json.loads((workdir / "metrics.json").read_text()) for workdir in (alone, together)]
    assert metrics[1]["autoencoder"]["psnr"] == pytest.approx(metrics[0]["autoencoder"]["psnr"], abs=0.01)
    assert metrics[1]["priors"]["bottom"]["nll"] == pytest.approx(metrics[0]["priors"]["bottom"]["nll"], abs=0.01)
    for name in ("samples.png", "report.html", "tokens/tokens.json", "bottom/metrics.jsonl"):
        assert (together / name).is_file(), said
    assert "evaluating" in said[0] and "evaluating" not in said[1]


def pairs(one, other, path=""):
    """(path, (leaf, leaf)) of two nested dicts of arrays."""
    assert set(one) == set(other)
    for name in one:
        if isinstance(one[name], dict):
            yield from pairs(one[name], other[name], f"{path}/{name}")
        else:
            yield f"{path}/{name}", (one[name], other[name])
