"""Records LFQ, BSQ, SimVQ and the rotation trick of others, on CPU, from the inputs of a recording that is there.

    pip install torch && pip install --target=FOLDER vector-quantize-pytorch
    python scripts/record_signs.py lfq --path=FOLDER --like=tests/reference/quantizers/lfq.npz --output=lfq.npz

WHOSE                             --path
lfq, bsq, simvq, vq_lucidrains    FOLDER, which pip filled as above
lfq_open_magvit2                  a checkout of github.com/TencentARC/SEED-Voken; needs einops

In --like are x, weight_on_z_q and the codes or the table with its matrix; everything else is written anew. grad_x is of
mean(z_q · weight_on_z_q) + loss. Channels come last, in `lfq_open_magvit2` second.
"""

from __future__ import annotations  # torch may be missing

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.record_quantizers import Arrays, copy, read

ENTROPY, COMMITMENT, INVERSE = 0.1, 0.25, 100.0  # weights; 1 / temperature
SAID = ("entropy_loss_weight", "commitment_loss_weight", "inv_temperature")


def signs(given: Arrays, path: Path, spherical: bool) -> Arrays:
    """lucidrains' LFQ; spherical: BSQ."""
    import torch

    sys.path.insert(0, str(path))
    from vector_quantize_pytorch import LFQ

    bits = given["x"].shape[-1]
    weights = {"entropy_loss_weight": ENTROPY, "commitment_loss_weight": COMMITMENT}
    module = LFQ(dim=bits, codebook_size=2**bits, spherical=spherical, **weights).train()

    def call(x: Any) -> Arrays:
        (z_q, indices, loss), terms = module(x, inv_temperature=INVERSE, return_loss_breakdown=True)
        named = {"per_sample_entropy": terms.per_sample_entropy, "batch_entropy": terms.batch_entropy}
        return {"z_q": z_q, "indices": indices, "loss": loss, "commitment": terms.commitment, **named}

    found = with_gradient(given, call)
    alone = torch.from_numpy(given["x"]).requires_grad_()
    call(alone)["loss"].backward()
    codes = module.indices_to_codes(torch.arange(4)[None])
    fixed = dict(zip(SAID, map(np.float32, (ENTROPY, COMMITMENT, INVERSE)), strict=True))
    evaluated = module.eval()(torch.from_numpy(given["x"]))[0]
    return found | fixed | {"grad_x_of_loss_alone": alone.grad, "codes_of_first_indices": codes, "eval_z_q": evaluated}


def open_magvit2(given: Arrays, path: Path) -> Arrays:
    source = read(path / "src" / "Open_MAGVIT2" / "modules" / "vqvae" / "lookup_free_quantize.py")
    bits = given["x"].shape[1]
    module = source.LFQ(dim=bits, codebook_size=2**bits).train()

    def call(x: Any) -> Arrays:
        (z_q, entropy, indices), terms = module(x, return_loss_breakdown=True)
        loss = ENTROPY * entropy + COMMITMENT * terms.commitment
        named = {"per_sample_entropy": terms.per_sample_entropy, "batch_entropy": terms.codebook_entropy}
        found = {"z_q": z_q, "indices": indices, "loss": loss, "entropy_loss": entropy}
        return found | named | {"commitment": terms.commitment}

    found = with_gradient(given, call)
    return found | {"indices": found["indices"].reshape(len(given["x"]), *given["x"].shape[2:])}


def simvq(given: Arrays, path: Path) -> Arrays:
    import torch

    sys.path.insert(0, str(path))
    from vector_quantize_pytorch import SimVQ

    table, matrix = given["param/frozen_codebook"], given["param/code_transform.weight"]
    module = SimVQ(table.shape[1], len(table), rotation_trick=False, input_to_quantize_commit_loss_weight=COMMITMENT)
    with torch.no_grad():
        module.frozen_codebook.copy_(torch.from_numpy(table))
        module.code_transform.weight.copy_(torch.from_numpy(matrix))
    found = with_gradient(given, lambda x: dict(zip(("z_q", "indices", "loss"), module(x), strict=True)))
    return found | {"codes": module.codebook, "grad/code_transform.weight": module.code_transform.weight.grad}


def rotation(given: Arrays, path: Path) -> Arrays:
    """Both ways to pass a gradient on, of one set of codes."""
    import torch

    sys.path.insert(0, str(path))
    from vector_quantize_pytorch import VectorQuantize

    found: Arrays = {"commitment_weight": np.float32(COMMITMENT)}
    for name, turned in (("straight_through", False), ("rotation", True)):
        size, dim = given["codes"].shape
        module = VectorQuantize(dim, size, commitment_weight=COMMITMENT, rotation_trick=turned, ema_update=False)
        module._codebook.embed.data.copy_(torch.from_numpy(given["codes"])[None])
        x = torch.from_numpy(given["x"]).requires_grad_()
        z_q, indices, loss = module(x)
        weighed = (z_q * torch.from_numpy(given["weight_on_z_q"])).mean()
        of_z_q, of_loss = (torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in (weighed, loss))
        one = {"z_q": z_q, "indices": indices, "loss": loss.reshape(())}
        one |= {"grad_x_of_z_q": of_z_q, "grad_x_of_loss": of_loss}
        found |= {f"{name}/{key}": value for key, value in one.items()}
    return found


def with_gradient(given: Arrays, call: Callable[[Any], Arrays]) -> Arrays:
    """What it makes of x, and grad_x."""
    import torch

    x = torch.from_numpy(given["x"]).requires_grad_()
    found = call(x)
    ((found["z_q"] * torch.from_numpy(given["weight_on_z_q"])).mean() + found["loss"]).backward()
    return found | {"grad_x": x.grad}


HOW: dict[str, Callable[[Arrays, Path], Arrays]] = {
    "lfq": lambda given, path: signs(given, path, spherical=False),
    "bsq": lambda given, path: signs(given, path, spherical=True),
    "simvq": simvq,
    "vq_lucidrains": rotation,
    "lfq_open_magvit2": open_magvit2,
}
KEPT = ("x", "weight_on_z_q", "codes", "smallest_gap", "param/frozen_codebook", "param/code_transform.weight")


def recorded(whose: str, path: Path, like: Path) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays, below the names of the recording that is there."""
    with np.load(like) as file:
        arrays = dict(file)
    for name in dict.fromkeys(key.partition("/")[0] for key in arrays):
        given = {key: arrays[f"{name}/{key}"] for key in KEPT if f"{name}/{key}" in arrays}
        for key, value in (given | HOW[whose](given, path)).items():
            yield f"{name}/{key}", copy(value)


def main() -> int:
    """0, or 2 where --path or --like is not what it should be."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("whose", metavar="WHOSE", choices=HOW, help="one of those above")
    flags.add_argument("--path", type=Path, required=True, help="where their code lies, as above")
    flags.add_argument("--like", metavar="FILE", type=Path, required=True, help="a recording whose inputs are taken")
    flags.add_argument("--output", metavar="FILE", type=Path, required=True, help="the .npz to write")
    given = flags.parse_args()
    try:
        found = dict(recorded(given.whose, given.path, given.like))
    except (ImportError, OSError, KeyError) as why:
        print(f"error: {given.whose} from --path={given.path}: {why}; --help says what to install", file=sys.stderr)
        return 2
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.output, **found)
    print(f"{given.output}: {len(found)} arrays, {given.output.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
