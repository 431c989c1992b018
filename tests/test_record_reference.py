"""scripts/record_reference.py: what it refuses, without torch; and, where there is torch, what it records."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "record_reference.py"
NO_TORCH = "raise ModuleNotFoundError(\"No module named 'torch'\")"
TINY = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.embed = torch.nn.Embedding(5, depth)
        self.unused = torch.nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, tokens):
        return self.embed(tokens) * self.scale, {"same": tokens}
"""
FILES = {
    "images.npz": {"images": np.zeros((2, 4, 4, 3), np.uint8)},
    "batches.npz": {"images": np.zeros((5, 2, 4, 4, 3), np.uint8)},
    "floats.npz": {"images": np.zeros((2, 4, 4, 3), np.float32)},
    "named.npz": {"tokens": np.zeros((2, 4, 4), np.int64)},
    "tokens.npz": {"0": np.array([[[0, 1], [1, 4]]])},
}


def record(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    """The script in a folder that holds FILES."""
    for name, arrays in FILES.items():
        np.savez(folder / name, **arrays)
    (folder / "text.npz").write_text("no arrays")
    command = [sys.executable, str(SCRIPT), "--output=out.npz", *argv]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def refusal(done: subprocess.CompletedProcess, folder: Path) -> str:
    """Its one line."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (folder / "out.npz").exists()
    return done.stderr


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--input=images.npz"], ["--model", "--help"]),
        (["--model=a:b"], ["--input", "--help"]),
        (["--model=a:b", "--input=images.npz", "--train_steps=many"], ["--train_steps", "'many'"]),
        (["--model=a:b", "--input=images.npz", "--range=0,9"], ["--range", "0,1", "-1,1"]),
        (["--model=a:b", "--input=images.npz", "--batches=batches.npz"], ["--batches", "--train_steps=20"]),
        (["--model=a:b", "--input=nothing.npz"], ["--input=nothing.npz", "No such file"]),
        (["--model=a:b", "--input=text.npz"], ["--input=text.npz", "no readable .npz"]),
        (["--model=a:b", "--input=named.npz"], ["tokens int64 [2, 4, 4]", "images", "0, 1"]),
        (["--model=a:b", "--input=floats.npz"], ["images float32 [2, 4, 4, 3]", "uint8 [N, H, W, C]"]),
        (["--model=a:b", "--input=images.npz", "--batches=images.npz", "--train_steps=2"], ["[n, B, H, W, C]"]),
        (["--model=a:b", "--input=tokens.npz", "--batches=tokens.npz", "--train_steps=2"], ["one axis more"]),
        (["--model=a:b", "--input=images.npz"], ["torch is not installed", "pip install torch"]),
    ],
)
def test_refuses_before_torch_is_needed(argv, words, tmp_path):
    (tmp_path / "torch.py").write_text(NO_TORCH)
    line = refusal(record(tmp_path, *argv), tmp_path)
    assert all(word in line for word in words), line


def test_help_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text(NO_TORCH)
    done = record(tmp_path, "--help")
    assert done.returncode == 0 and "MODULE:CALLABLE" in done.stdout


def test_any_module_is_recorded(tmp_path):
    """Outputs, and gradients of output · cotangent: computed here without PyTorch."""
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(TINY)
    argv = ["--model=mine:Tiny", '--arguments={"depth": 3}', "--input=tokens.npz", "--train_steps=2"]
    done = record(tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    assert "no training is recorded" in done.stdout and "output/0  float32 [1, 2, 2, 3]" in done.stdout
    with np.load(tmp_path / "out.npz") as file:
        found = dict(file)
    tokens, cotangent = FILES["tokens.npz"]["0"], found["cotangent/0"]
    gradient = np.zeros((5, 3))
    np.add.at(gradient, tokens, 2 * cotangent)
    assert {name.partition("/")[2] for name in found if name.startswith("param/")} == {
        "embed.weight",
        "unused.weight",
        "unused.bias",
        "scale",
    }
    assert [name for name in found if name.startswith(("grad/", "cotangent/"))] == ["grad/embed.weight", "cotangent/0"]
    np.testing.assert_array_equal(found["input/0"], tokens)
    np.testing.assert_array_equal(found["output/0"], 2 * found["param/embed.weight"][tokens])
    np.testing.assert_array_equal(found["output/1"], tokens)
    np.testing.assert_allclose(found["grad/embed.weight"], gradient, rtol=1e-6)


def test_refuses_what_the_model_is_not(tmp_path):
    """Modules, callables, arguments, weights and inputs that do not fit."""
    torch = pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(TINY)
    torch.save({"embed.weight": torch.zeros(5, 3)}, tmp_path / "some.pt")
    tiny = ["--model=mine:Tiny", '--arguments={"depth": 3}']
    for argv, word in (
        (["--model=yours:Tiny", "--input=tokens.npz"], "--model=yours:Tiny cannot be imported"),
        (["--model=mine:Tyni", "--input=tokens.npz"], "has no 'Tyni', but Tiny"),
        (["--model=mine:Tiny", "--input=tokens.npz"], "missing 1 required positional argument: 'depth'"),
        ([*tiny, "--input=tokens.npz", "--weights=some.pt"], "--weights=some.pt is not what"),
        ([*tiny, "--input=images.npz"], "--input=images.npz is not what the model takes"),
    ):
        assert word in refusal(record(tmp_path, *argv), tmp_path)
