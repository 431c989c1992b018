"""What speed.py times of the PyTorch reference, https://github.com/unixpickle/vq-vae-2, at its best.

A row gives callables that do one thing each, by the name of their setting: eager or `torch.compile`, threads, layout.
Adam is the fused one, which the reference's scripts do not ask for.

On a GPU the matrix units multiply float32 as TF32, as JAX does there, cuDNN tries its algorithms, and torch.compile
also tries CUDA graphs. Autocast to bfloat16 where that is asked for.

speed.py starts it: python benchmarks/speed_torch.py PATH [SECONDS], a checkout of the reference and how long a turn
lasts. A line of standard input is a row, answered by the names of its fastest settings, or one of these names, answered
by the seconds of a step. What goes wrong in a row is answered as {"error": …}.
"""

import functools
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from turns import TURN, turn

sys.path.insert(0, sys.argv[1])
from vq_vae_2 import vq, vq_vae
from vq_vae_2.examples.hierarchical.model import BottomPrior, TopPrior
from vq_vae_2.examples.mnist.model import Generator

Once = Callable[[], float | None]  # runs once; may give the seconds, where they are not what it took

KEPT = 2  # settings that take turns with ours, after each was tried
vars(np)["int"] = int  # the reference still says np.int, which NumPy 1.24 took away
warnings.filterwarnings("ignore", module="torch")
torch._dynamo.config.recompile_limit = 64  # each setting compiles its own
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
THREADS = (1, os.cpu_count()) if DEVICE == "cpu" else (os.cpu_count(),)
LENGTH = float(sys.argv[2]) if len(sys.argv) > 2 else TURN  # seconds of a turn
torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("high" if DEVICE == "cuda" else "highest")
HOW: dict[str, str | None] = {"eager": None, "compile": None}
HOW |= {"compile+graphs": "reduce-overhead"} if DEVICE == "cuda" else {}
PLACES = 4  # of a map whose forward passes stand for all, where the whole loop would take minutes


def autoencoder_step(
    batch: int, dtype: str, *, size: int, channels: int, levels: int, width: int, codes: int
) -> dict[str, Once]:
    """Forward, backward, Adam, revival, as the reference's scripts; without its reading of the loss."""
    images = torch.rand(batch, channels, size, size, device=DEVICE)

    def make() -> Any:
        encoders = [vq_vae.QuarterEncoder(channels, width, codes)]
        if levels == 1:
            return vq_vae.VQVAE(encoders, [vq_vae.QuarterDecoder(width, channels)])
        encoders.append(vq_vae.HalfEncoder(width, width, codes))
        return vq_vae.VQVAE(encoders, [vq_vae.HalfDecoder(width, width), vq_vae.HalfQuarterDecoder(width, channels)])

    return dict(_steps(make, lambda model, x: model(x)["loss"], images, dtype, lambda m: m.revive_dead_entries()))


def prior_step(
    batch: int, dtype: str, *, name: str, vocab_size: int, shape: tuple[int, int], **fields: Any
) -> dict[str, Once]:
    """Forward, backward, Adam."""
    tokens = torch.randint(0, vocab_size, (batch, *shape), device=DEVICE)
    make = PRIORS.get(name) or functools.partial(Transformer, vocab_size, shape, **fields)
    return dict(_steps(make, lambda model, x: F.cross_entropy(model(x), x), tokens, dtype))


def sampling(count: int, dtype: str, *, name: str, vocab_size: int, shape: tuple[int, int]) -> dict[str, Once]:
    """The reference's loop: a forward pass a pixel. TopPrior reads the rows so far: some pixels stand for all."""
    models = {layout: PRIORS[name]().eval().to(DEVICE, memory_format=form) for layout, form in LAYOUTS.items()}
    whole = name == "mnist_generator"
    return {
        f"eager {threads} {layout}": _threaded(threads, lambda m=models[layout]: _draw(m, count, shape, whole, dtype))
        for threads, layout in itertools.product(THREADS, LAYOUTS)
    }


def hierarchy(count: int, dtype: str) -> dict[str, Once]:
    """Top and bottom maps place by place, then the decoder (a second at most, left out).

    The reference has no script that samples its bottom prior of images: this is its loop for the top one, which gives
    the whole map for each place.
    """
    top, bottom = TopPrior().eval().to(DEVICE), BottomPrior().eval().to(DEVICE)
    above = torch.zeros(count, 32, 32, dtype=torch.long, device=DEVICE)

    def once() -> float:
        first = _draw(top, count, (32, 32), False, dtype)
        return first + _draw(lambda x: bottom(x, above), count, (64, 64), True, dtype, 2)

    return {f"eager {THREADS[-1]} NCHW": _threaded(THREADS[-1], once)}


def nearest_code(vectors: int, dim: int, codes: int) -> dict[str, Once]:
    """The reference's distances and argmin; and |e|² - 2 z·e by one matrix product, in blocks of 4,096 vectors."""
    z, table = torch.randn(vectors, dim, device=DEVICE), torch.randn(codes, dim, device=DEVICE)

    def reference() -> None:
        torch.argmin(vq.embedding_distances(table, z), dim=-1)

    def product() -> None:
        lengths = table.square().sum(-1)
        for block in z.split(max(1, min(4096, (1 << 28) // codes))):
            torch.addmm(lengths, block, table.T, alpha=-2).argmin(-1)

    every = {"product": product} | ({"reference": reference} if vectors * codes <= 1 << 28 else {})
    return {f"{name} {n}": _threaded(n, f) for name, f in every.items() for n in THREADS}


def ema_update(vectors: int, dim: int, codes: int) -> dict[str, Once]:
    """bincount, index_add_, averages: the reference has no EMA; this is what users of PyTorch write."""
    z, index = torch.randn(vectors, dim, device=DEVICE), torch.randint(0, codes, (vectors,), device=DEVICE)
    count, total = torch.ones(codes, device=DEVICE), torch.randn(codes, dim, device=DEVICE)

    def once() -> torch.Tensor:
        used = torch.bincount(index, minlength=codes).float()
        count.mul_(0.99).add_(used, alpha=0.01)
        total.mul_(0.99).add_(torch.zeros_like(total).index_add_(0, index, z), alpha=0.01)
        smoothed = (count + 1e-5) / (count.sum() + codes * 1e-5) * count.sum()
        return total / smoothed[:, None]

    return {f"index_add {n}": _threaded(n, once) for n in THREADS}


class Transformer(torch.nn.Module):
    """The transformer of vqvae_jax/priors/transformer.py as one writes it in PyTorch, with its fused attention."""

    def __init__(self, vocab_size: int, shape: tuple[int, int], *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size + 1, width)  # the last is the start token
        self.place = torch.nn.Parameter(0.02 * torch.randn(shape[0] * shape[1], width))
        self.blocks = torch.nn.ModuleList([TransformerBlock(width, heads) for _ in range(layers)])
        self.norm, self.to_logits = torch.nn.LayerNorm(width), torch.nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, h, w] → [B, K, h, w]."""
        before = F.pad(tokens.flatten(1)[:, :-1], (1, 0), value=self.embed.num_embeddings - 1)
        x = self.embed(before) + self.place
        for block in self.blocks:
            x = block(x)
        return self.to_logits(self.norm(x)).movedim(-1, 1).unflatten(-1, tokens.shape[1:])


class TransformerBlock(torch.nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, linear = heads, torch.nn.Linear
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.mix = linear(width, 3 * width), linear(width, width)
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


PRIORS = {"mnist_generator": Generator, "top_prior": TopPrior}


def _steps(
    make: Callable[[], Any], loss: Callable[..., torch.Tensor], inputs: torch.Tensor, dtype: str, after: Any = None
) -> Iterator[tuple[str, Once]]:
    """A training step in every setting, each with a model of its own."""
    for how, threads, layout in itertools.product(HOW, THREADS, LAYOUTS):
        if DEVICE == "cuda" and layout == "NCHW":  # cuDNN's kernels for 16 bits want channels last
            continue
        if inputs.is_floating_point() and how == "compile+graphs":  # large images keep a GPU busy by themselves
            continue
        model = make().to(DEVICE, memory_format=LAYOUTS[layout])
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        x = inputs.to(memory_format=LAYOUTS[layout]) if inputs.ndim == 4 else inputs
        called = model if how == "eager" else torch.compile(model, mode=HOW[how])

        def once(model=model, called=called, adam=adam, x=x) -> None:
            adam.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
                value = loss(called, x)
            value.backward()
            adam.step()
            if after:
                after(model)

        yield f"{how} {threads} {layout}", _threaded(threads, once)


@torch.no_grad()
def _draw(model: Any, count: int, shape: tuple[int, int], whole: bool, dtype: str, places: int = PLACES) -> float:
    """Seconds of a map: all of it where it is small, else the forward passes of some rows, times the places."""
    tokens = torch.zeros(count, *shape, dtype=torch.long, device=DEVICE)
    height, width = shape
    every = list(itertools.product(range(height), range(width)))
    chosen = every if len(every) < 100 else [((2 * i + 1) * height // (2 * places), width // 2) for i in range(places)]
    began = time.perf_counter()
    for row, column in chosen:
        seen = tokens if whole else tokens[:, : row + 1]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(seen)[:, :, row, column]
        tokens[:, row, column] = torch.multinomial(logits.float().softmax(1), 1)[:, 0]
    _wait()
    return (time.perf_counter() - began) * len(every) / len(chosen)


def _threaded(threads: int | None, once: Once) -> Once:
    """Runs with so many threads, to its end."""

    def run() -> float | None:
        torch.set_num_threads(threads or 1)
        seconds = once()
        _wait()
        return seconds if isinstance(seconds, float) else None

    return run


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def best_of(settings: dict[str, Once]) -> dict[str, Callable[[], float]]:
    """A turn of each of the fastest settings, after each was tried; one that fails is left out while others work.

    With one thread nothing is compiled where that was 1.3 times as slow without compiling.
    """
    tried: dict[str, float] = {}
    for name, once in settings.items():
        if name.startswith("compile 1") and tried[name.replace("compile", "eager")] > 1.3 * min(tried.values()):
            continue
        try:
            began = time.perf_counter()
            first = _seconds(once)  # compiles
            slow = time.perf_counter() - began > 10 and "compile" not in name
            tried[name] = first if slow else min(_seconds(once), _seconds(once))
        except Exception as error:
            print(f"{name}: {error}"[:300], file=sys.stderr, flush=True)
            failed = error
    if not tried:
        raise failed
    fastest = sorted(tried, key=lambda name: tried[name])[:KEPT]
    one = {name: functools.partial(_seconds, settings[name]) for name in fastest}
    return {name: functools.partial(turn, one[name], tried[name], LENGTH) for name in fastest}


def _seconds(once: Once, count: int = 1) -> float:
    """Of one run, the mean of so many in a row."""
    began = time.perf_counter()
    said = [once() for _ in range(count)]
    return sum(said) / count if said[-1] else (time.perf_counter() - began) / count


def main() -> None:
    """Answers line by line."""
    runs: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if isinstance(asked, list):
                runs = settings_of(*asked)
            answer = list(runs) if isinstance(asked, list) else runs[asked]() if asked in runs else None
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), flush=True)


def settings_of(function: str, arguments: list[Any], fields: dict[str, Any]) -> dict[str, Callable[[], float]]:
    """A turn of each of a row's fastest settings; of what PyTorch has no twin for, none."""
    torch._dynamo.reset()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    rows = globals().get(function)
    return best_of(rows(*arguments, **fields)) if rows else {}


if __name__ == "__main__":
    main()
