"""How the files beside this one were made, by hand, with PyTorch 2.13 on a CPU: python tests/interop/saved/make.py

The tests know what is in them from the arithmetic below, and need no torch.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def state():
    """One tensor of each kind; test_torch_files.py has the same in numpy."""
    base = torch.arange(12, dtype=torch.float32)
    numbers = [("float64", torch.float64), ("float16", torch.float16), ("bfloat16", torch.bfloat16)]
    numbers += [(f"int{n}", getattr(torch, f"int{n}")) for n in (8, 16, 32, 64)]
    tensors = OrderedDict((name, torch.arange(-3, 3).reshape(2, 3).to(dtype)) for name, dtype in numbers)
    tensors["uint8"] = torch.tensor([0, 7, 255], dtype=torch.uint8)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["base"] = base
    tensors["tied.weight"] = base
    tensors["transposed"] = base.reshape(3, 4).T
    tensors["slice"] = base[1::2]
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["parameter"] = torch.nn.Parameter(torch.full((2,), 0.5))
    return tensors


def training():
    """What a trainer saves beside the weights: two steps of Adam of a wrapped model."""
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 2.0]])
        model.bias[:] = 3.0
    weights = OrderedDict((f"module._orig_mod.{name}", one.clone()) for name, one in model.state_dict().items())
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    beside = {"epoch": 3, "loss": torch.tensor(0.1), "best": np.float64(0.5), "rng_state": torch.zeros(16).byte()}
    beside |= {
        "size": torch.Size([2, 1]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "history": [(1, None)],
    }
    return beside | {"curve": np.arange(3.0), "model": weights, "optimizer": optimizer.state_dict()}


def main():
    for name, value in (("state", state()), ("training", training())):
        torch.save(value, HERE / f"{name}_zip.pt")
        torch.save(value, HERE / f"{name}_old.pt", _use_new_zipfile_serialization=False)
    ema = {"w": torch.ones(2)}
    torch.save({"model": {"w": torch.zeros(2)}, "ema": {"average": ema}}, HERE / "two_zip.pt")
    for name, value in (
        ("quantized", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
        ("sparse", torch.eye(2).to_sparse()),
        ("complex", torch.ones(2, dtype=torch.complex64)),
    ):
        torch.save({"w": value}, HERE / f"{name}_zip.pt")
    torch.save(torch.nn.Linear(1, 1), HERE / "module_zip.pt")


if __name__ == "__main__":
    main()
