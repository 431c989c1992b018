"""Records what someone else's quantizer does, on CPU, as an .npz for tests/quantizers/test_recordings.py.

    pip install torch && pip install --target=FOLDER vector-quantize-pytorch
    python scripts/record_quantizers.py ema --path=FOLDER --output=tests/reference/quantizers/ema.npz

WHOSE                            --path
ema, residual, fsq_lucidrains    FOLDER, which pip filled as above
vq                               a checkout of github.com/unixpickle/vq-vae-2
cosine_llamagen                  a checkout of github.com/FoundationVision/LlamaGen
cosine_enhancing_transformers    a checkout of github.com/thuanz123/enhancing-transformers
fsq                              fsq/fsq.ipynb of github.com/google-research/google-research; needs JAX, not torch
kl                               a checkout of github.com/CompVis/latent-diffusion
gumbel                           a checkout of github.com/CompVis/taming-transformers; needs einops

Codes that are signs, SimVQ and the rotation trick: record_signs.py.

    weight_on_z_q                     of mean(z_q · weight), whose gradient is grad_z_e_of_z_q
    state{s}/…                        before step s, and after the last one, by the names of their code
    step{s}/z_e, z_q, loss, indices   of a training step, channels last; `loss` has a number a depth in `residual`
    step{s}/grad_z_e_of_loss, grad_z_e_of_z_q, and grad_codes where codes learn by gradient, with Adam
    eval/z_e, z_q, indices            with the last state

The finite scalar quantizers know neither states nor steps: all this once for each of LEVELS, below levels_8_6_5/ ….
Nor does `kl`: z_e, the noise of its sample, mode, z_q (the sample), kl [B] (a sum over an image), and both gradients.
Nor `gumbel`, below soft/ and hard/: proj/weight, proj/bias, codes, temperature, noise; loss is its KL without a weight,
indices the codes that the noise liked best; grad_codes and grad_proj are of z_q.
"""

from __future__ import annotations  # torch may be missing

import argparse
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

STEPS, LEARNING_RATE, BETA = 8, 1e-2, 0.25
SHAPE, SIZE = (2, 4, 4, 8), 32  # of z_e; codes
DEPTH, DEAD_RATE = 3, 3
DECAY = 0.8
LEVELS = (8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (4, 3, 3)
CODE_DIM = 6  # of codes that are drawn
VECTORS = 256  # of a finite scalar quantizer

Arrays = dict[str, Any]


class Other(NamedTuple):
    """Someone else's quantizer: a torch module and how it is spoken to."""

    module: Any
    call: Callable[[Any], Arrays]  # z_e → z_q, loss, indices; in evaluation without loss
    state: Callable[[], Arrays]  # its tensors, by name
    codes: Any = None  # the parameter that learns by gradient
    after: Callable[[], None] = lambda: None  # what its training does after an optimizer's step


def normal(seed: int, *shape: int) -> np.ndarray:
    """N(0, 1), the same in every version of NumPy."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def read(path: Path) -> Any:
    """A file of Python as a module, without its package."""
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


# --- the quantizers


def ema(path: Path) -> Other:
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(SHAPE[-1], SIZE, decay=DECAY, commitment_weight=BETA, rotation_trick=False)
    return Other(module, lucidrains(module), lambda: table(module))


def residual(path: Path) -> Other:
    from vector_quantize_pytorch import ResidualVQ

    fields = {"decay": DECAY, "commitment_weight": BETA, "rotation_trick": False}
    module = ResidualVQ(dim=SHAPE[-1], num_quantizers=DEPTH, codebook_size=SIZE, **fields)
    tables = lambda: {f"{d}/{name}": x for d, one in enumerate(module.layers) for name, x in table(one).items()}  # noqa: E731
    return Other(module, lucidrains(module), tables)


def table(module: Any) -> Arrays:
    return {name: getattr(module._codebook, name)[0] for name in ("embed", "cluster_size", "embed_avg")}


def lucidrains(module: Any) -> Callable[[Any], Arrays]:
    """It takes sequences."""

    def call(z_e: Any) -> Arrays:
        z_q, indices, loss = module(z_e.reshape(SHAPE[0], -1, SHAPE[-1]))
        return {"z_q": z_q.reshape(SHAPE), "loss": loss, "indices": indices.reshape(*SHAPE[:-1], *indices.shape[2:])}

    return call


def vq(path: Path) -> Other:
    np.int = int  # type: ignore[attr-defined]  # which NumPy 1.24 took away
    source = read(path / "vq_vae_2" / "vq.py")
    module = source.VQ(SHAPE[-1], SIZE, DEAD_RATE)

    def call(z_e: Any) -> Arrays:
        embedded, z_q, indices = module(z_e.moveaxis(-1, 1))
        loss = source.vq_loss(z_e.moveaxis(-1, 1), embedded, BETA)
        counted = {"usage_count": module.usage_count} if module.training else {}
        return {"z_q": z_q.moveaxis(1, -1), "loss": loss, "indices": indices, **counted}

    state = lambda: {"codes": module.dictionary, "usage_count": module.usage_count}  # noqa: E731
    return Other(module, call, state, module.dictionary, module.revive_dead_entries)


def llamagen(path: Path) -> Other:
    source = read(path / "tokenizer" / "tokenizer_image" / "vq_model.py")
    module = source.VectorQuantizer(SIZE, SHAPE[-1], BETA, 0.0, True, False)

    def call(z_e: Any) -> Arrays:
        z_q, losses, found = module(z_e.moveaxis(-1, 1))
        loss = losses[0] + losses[1] if module.training else None
        return {"z_q": z_q.moveaxis(1, -1), "loss": loss, "indices": found[2].reshape(SHAPE[:-1])}

    return learns(module, call)


def enhancing_transformers(path: Path) -> Other:
    source = read(path / "enhancing" / "modules" / "stage1" / "quantizers.py")
    module = source.VectorQuantizer(SHAPE[-1], SIZE, BETA)
    return learns(module, lambda z_e: dict(zip(("z_q", "loss", "indices"), module(z_e), strict=True)))


def learns(module: Any, call: Callable[[Any], Arrays]) -> Other:
    """One whose codes are an embedding."""
    codes = module.embedding.weight
    return Other(module, call, lambda: {"codes": codes}, codes)


# --- what they do


def record(other: Other) -> Iterator[tuple[str, Any]]:
    """Training steps, then an evaluation."""
    import torch

    adam = torch.optim.Adam([other.codes], LEARNING_RATE) if other.codes is not None else None
    yield "weight_on_z_q", normal(100, *SHAPE)
    for s in range(STEPS):
        yield from below(f"state{s}", other.state())
        yield from below(f"step{s}", step(other, torch.from_numpy(normal(s, *SHAPE)), adam))
        other.after()
    yield from below(f"state{STEPS}", other.state())
    other.module.eval()
    z_e = torch.from_numpy(normal(STEPS, *SHAPE))
    with torch.no_grad():
        found = other.call(z_e)
    yield from below("eval", {"z_e": z_e, "z_q": found["z_q"], "indices": found["indices"]})


def step(other: Other, z_e: Any, adam: Any) -> Arrays:
    import torch

    z_e.requires_grad_()
    found = {name: copy(x) if name == "usage_count" else x for name, x in other.call(z_e).items()}
    weighed = (found["z_q"] * torch.from_numpy(normal(100, *SHAPE))).mean()
    of_z_q = torch.autograd.grad(weighed, z_e, retain_graph=True)[0]
    found["loss"].sum().backward()
    grads = {"grad_z_e_of_loss": z_e.grad, "grad_z_e_of_z_q": of_z_q}
    if adam is not None:
        grads["grad_codes"] = other.codes.grad.clone()
        adam.step()
        adam.zero_grad()
    return {"z_e": z_e, **found, **grads}


def below(name: str, found: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in found.items():
        yield f"{name}/{key}", copy(value)


def copy(value: Any) -> np.ndarray:
    """Of a tensor or array; whole numbers are int32."""
    value = np.array(value.detach().numpy() if hasattr(value, "detach") else value)
    return value.astype(np.int32) if value.dtype.kind in "iu" else value


# --- finite scalar quantizers


def fsq_of_lucidrains(path: Path) -> Iterator[tuple[str, Any]]:
    import torch

    sys.path.insert(0, str(path))
    from vector_quantize_pytorch import FSQ

    for levels, given, weight in scalars():
        z_e = torch.from_numpy(given)[None].requires_grad_()
        z_q, indices = FSQ(list(levels))(z_e)
        (z_q[0] * torch.from_numpy(weight)).mean().backward()
        found = {"z_e": z_e[0], "weight_on_z_q": weight, "z_q": z_q[0], "indices": indices[0]}
        yield from below(name_of(levels), found | {"grad_z_e_of_z_q": z_e.grad[0]})


def fsq_of_its_authors(path: Path) -> Iterator[tuple[str, Any]]:
    import jax

    kind = from_notebook(path)
    for levels, z_e, weight in scalars():
        quantizer = kind(list(levels))
        z_q, back = jax.vjp(quantizer.quantize, z_e)
        found = {"z_e": z_e, "weight_on_z_q": weight, "z_q": z_q, "indices": quantizer.codes_to_indexes(z_q)}
        yield from below(name_of(levels), found | {"grad_z_e_of_z_q": back(weight / weight.size)[0]})


def from_notebook(path: Path) -> Any:
    """The class FSQ; the cells after it only show it."""
    names: Arrays = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code" and "FSQ" not in names:
            exec("".join(cell["source"]), names)
    return names["FSQ"]


def scalars() -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Levels; z_e and weight_on_z_q, [N, D]."""
    for number, levels in enumerate(LEVELS):
        yield levels, 2 * normal(number, VECTORS, len(levels)), normal(100 + number, VECTORS, len(levels))


def name_of(levels: tuple[int, ...]) -> str:
    return "levels_" + "_".join(map(str, levels))


# --- a continuous bottleneck


def kl_of_latent_diffusion(path: Path) -> Iterator[tuple[str, Any]]:
    import torch

    source = read(path / "ldm" / "modules" / "distributions" / "distributions.py")
    given = 2 * normal(0, *SHAPE)
    given[0, 0, 0] *= 20  # beyond where the log-variance is clipped
    noise, weight = (normal(number, *SHAPE[:-1], SHAPE[-1] // 2) for number in (1, 2))
    z_e = torch.from_numpy(given).requires_grad_()
    posterior = source.DiagonalGaussianDistribution(z_e.moveaxis(-1, 1))
    torch.randn = lambda *shape: torch.from_numpy(noise).moveaxis(-1, 1)
    z_q, kl = posterior.sample().moveaxis(1, -1), posterior.kl()
    of_z_q = torch.autograd.grad((z_q * torch.from_numpy(weight)).mean(), z_e, retain_graph=True)[0]
    of_kl = torch.autograd.grad(kl.mean(), z_e)[0]
    found = {"z_e": z_e, "noise": noise, "mode": posterior.mode().moveaxis(1, -1), "z_q": z_q, "kl": kl}
    found |= {"weight_on_z_q": weight, "grad_z_e_of_z_q": of_z_q, "grad_z_e_of_loss": of_kl}
    yield from below("step0", found)


# --- codes that are drawn


def gumbel_of_taming(path: Path) -> Iterator[tuple[str, Any]]:
    import torch

    source = read(path / "taming" / "modules" / "vqvae" / "quantize.py")
    for number, (name, hard) in enumerate((("soft", False), ("hard", True))):
        temperature, noise = 0.7 - 0.4 * number, np.random.RandomState(10 + number).gumbel(size=(*SHAPE[:-1], SIZE))
        noise = torch.from_numpy(noise.astype(np.float32))
        module = source.GumbelQuantize(SHAPE[-1], CODE_DIM, SIZE, straight_through=hard, kl_weight=1.0)
        # It takes the noise as the negative logarithm of exponential numbers.
        torch.Tensor.exponential_ = lambda like, noise=noise: torch.exp(-noise).moveaxis(-1, 1)
        z_e = torch.from_numpy(2 * normal(number, *SHAPE)).requires_grad_()
        z_q, loss, (_, _, indices) = module(z_e.moveaxis(-1, 1), temperature)
        weight = normal(100 + number, *SHAPE[:-1], CODE_DIM)
        weighed = (z_q.moveaxis(1, -1) * torch.from_numpy(weight)).mean()
        learned = (z_e, module.embed.weight, module.proj.weight)
        of_z_q = torch.autograd.grad(weighed, learned, retain_graph=True)
        of_loss = torch.autograd.grad(loss, z_e)[0]
        given = {"z_e": z_e, "noise": noise, "weight_on_z_q": weight, "temperature": np.float32(temperature)}
        state = {f"proj/{part}": one for part, one in module.proj.named_parameters()} | {"codes": module.embed.weight}
        grads = dict(zip(("grad_z_e_of_z_q", "grad_codes", "grad_proj"), of_z_q, strict=True))
        made = {"z_q": z_q.moveaxis(1, -1), "loss": loss, "indices": indices, "grad_z_e_of_loss": of_loss}
        yield from below(name, given | state | made | grads)


WITH_STATE = {
    "ema": ema,
    "residual": residual,
    "vq": vq,
    "cosine_llamagen": llamagen,
    "cosine_enhancing_transformers": enhancing_transformers,
}
STATELESS = {
    "fsq": fsq_of_its_authors,
    "fsq_lucidrains": fsq_of_lucidrains,
    "kl": kl_of_latent_diffusion,
    "gumbel": gumbel_of_taming,
}


def recorded(whose: str, path: Path) -> Arrays:
    """All arrays of a recording."""
    if whose in ("fsq", "fsq_lucidrains"):  # they draw nothing, and one has no torch
        return dict(STATELESS[whose](path))
    import torch

    random.seed(0)  # revival draws from it
    torch.manual_seed(0)
    if whose in STATELESS:
        return dict(STATELESS[whose](path))
    sys.path.insert(0, str(path))
    return dict(record(WITH_STATE[whose](path)))


def main() -> int:
    """0, or 2 where --path is not what it should be."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("whose", metavar="WHOSE", choices=[*WITH_STATE, *STATELESS], help="one of those above")
    flags.add_argument("--path", type=Path, required=True, help="where their code lies, as above")
    flags.add_argument("--output", metavar="FILE", type=Path, required=True, help="the .npz to write")
    given = flags.parse_args()
    try:
        found = recorded(given.whose, given.path)
    except (ImportError, OSError) as why:
        print(f"error: {given.whose} from --path={given.path}: {why}; --help says what to install", file=sys.stderr)
        return 2
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.output, **found)
    print(f"{given.output}: {len(found)} arrays, {given.output.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
