"""The one place that knows where a program will run."""

import ast
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from vqvae_jax import backend

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "platform", "choices"),
    [
        ("cpu", "cpu", backend.CPU),
        ("gpu", "gpu", backend.GPU),
        ("cuda", "gpu", backend.GPU),
        ("rocm", "gpu", backend.GPU),
        ("tpu", "tpu", backend.TPU),
        ("neuron", "neuron", backend.TPU),
    ],
)
def test_choices_are_those_of_the_back_end(name, platform, choices, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: name)
    assert backend.platform() == platform and backend.choices() is choices


@pytest.mark.parametrize("told", ["cpu", jax.local_devices(backend="cpu")[-1]], ids=["by name", "the device"])
def test_the_default_device_goes_before_the_back_end(told, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with jax.default_device(told):
        assert backend.platform() == "cpu" and backend.choices() is backend.CPU
        assert backend.device().platform == "cpu" and backend.device() == next(iter(jnp.ones(1).devices()))
    assert backend.platform() == "tpu"


def test_a_cpu_has_no_choice_of_an_accelerator():
    assert not any(set(pair) == {True} or set(pair) == {False} for pair in zip(backend.CPU, backend.GPU, strict=True))


@pytest.mark.parametrize(
    ("said", "capability"),
    [({}, None), ({"compute_capability": "9.0"}, (9, 0)), ({"compute_capability": "12.1"}, (12, 1))]
    + [({"compute_capability": "gfx942"}, None)],
)
def test_only_nvidia_has_a_compute_capability(said, capability, monkeypatch):
    monkeypatch.setattr(backend, "device", lambda: SimpleNamespace(**said))
    assert backend.compute_capability() == capability


@pytest.mark.parametrize(("stats", "memory"), [(None, None), ({}, None), ({"bytes_limit": 5}, 5)], ids=str)
def test_memory_where_the_device_says_it(stats, memory, monkeypatch):
    monkeypatch.setattr(backend, "device", lambda: SimpleNamespace(memory_stats=lambda: stats))
    assert backend.memory() == memory


def test_options_of_a_program_that_runs_once(monkeypatch):
    assert jax.jit(lambda x: x + 1, compiler_options=backend.options_once())(1) == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert backend.options_once() == {}


@pytest.mark.parametrize(("number", "power"), [(-1, 1), (0, 1), (1, 1), (2, 2), (3, 2), (64, 64), (127, 64)])
def test_powers_of_two(number, power):
    assert backend.power_of_two(number) == power


def test_nobody_else_asks():
    for path in (ROOT / "vqvae_jax").rglob("*.py"):
        asked = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        assert "default_backend" not in asked or path.name == "backend.py", path
