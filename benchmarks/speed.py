"""How fast the parts are, beside the limit of the machine and the PyTorch reference at its best.

    python benchmarks/speed.py                                      ours alone
    git clone https://github.com/unixpickle/vq-vae-2 PATH
    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python benchmarks/speed.py --reference=PATH --json=FILE         beside PyTorch, in turns

    ms       of one step, or one drawing; median of rounds in which ours and PyTorch's best settings take turns
    limit    the larger of FLOP / measured GEMM rate and bytes / measured bandwidth, as a share of ms
    memory   arguments, outputs and temporaries as XLA plans them, MB: where a work has several programs, of the largest
    cold     seconds to trace and compile that program; warm: from the persistent cache
    torch    ms of the best of eager and torch.compile, one and all threads, NCHW and channels_last, and which it was
    ratio    ours / torch: median over the rounds [smallest, largest]

Then what doubling costs, how fast images come in, and the seconds from a program's start to its first training step.
"a forward pass of TopPrior" is what each of the 1,024 pixels of a map would cost without caches.
"""

import argparse
import atexit
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vqvae_jax.devices import use_large_pages  # noqa: E402

if __name__ == "__main__":
    use_large_pages()

import jax  # noqa: E402
import pipeline  # noqa: E402
import speed_rows as ours  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402
from machine import Peak, described, peak, planned  # noqa: E402
from sizes import DRAWINGS, GENERATOR, MNIST, NARROW_DIT, PHOTOGRAPHS, PLAIN, SMALL_MAP, TOP  # noqa: E402
from turns import TURN, in_turns, milliseconds, turns_of  # noqa: E402

from vqvae_jax.files import write_json  # noqa: E402

SMALL = {"size": 64, "channels": 3, "levels": 2, "width": 64, "codes": 512}
CPU = jax.default_backend() == "cpu"
DTYPES = ("float32", "bfloat16")

Row = tuple[str, tuple[Any, ...], dict[str, Any]]  # function of speed_rows and of speed_torch, its arguments


def rows(dtype: str) -> dict[str, Row]:
    """All rows by name; accelerators have the larger ones in addition."""
    photographs: dict[str, tuple[int, int]] = {"64 px, 16": (64, 16), "256 px, 2": (256, 2)}
    if not CPU:
        photographs["256 px, 64"] = (256, 64)
    found: dict[str, Row] = {
        f"MNIST VQ-VAE step, {batch}": ("autoencoder_step", (batch, dtype), MNIST) for batch in (32, 128)
    }
    for name, (size, batch) in photographs.items():
        found[f"hierarchical VAE step, {name}"] = ("autoencoder_step", (batch, dtype), {"size": size, **PHOTOGRAPHS})
    for batch in (32, 128):
        found[f"MNIST PixelCNN step, {batch}"] = ("prior_step", (batch, dtype), GENERATOR)
    found["TopPrior step, 2"] = ("prior_step", (2, dtype), TOP)
    found |= recipes(dtype) if CPU else {}
    for count in (1, 16, 64):
        found[f"sample MNIST PixelCNN, {count}"] = ("sampling", (count, dtype), GENERATOR)
    for count in (1, 16) if CPU else (1, 16, 64):
        found[f"sample TopPrior 32x32, {count}"] = ("sampling", (count, dtype), TOP)
    found["a forward pass of TopPrior, 1"] = ("forward", (1, dtype), TOP)
    found["both priors and decoder, 256 px, 1"] = ("hierarchy", (1, dtype), {})
    if dtype == "float32":  # codebooks are float32 whatever the networks are
        for shape in ((16384, 64, 512), (16384, 128, 8192), (2048, 8, 262144), (65536, 8, 262144)):
            found["nearest code, {} x {}, {:,} codes".format(*shape)] = ("nearest_code", shape, {})
        found["plain product and argmin, 2048 x 8, 262,144"] = ("plain_nearest_code", (2048, 8, 262144), {})
        found["EMA update, 16384 x 64, 512 codes"] = ("ema_update", (16384, 64, 512), {})
    return found


def recipes(dtype: str) -> dict[str, Row]:
    """Of the recipes that are for a CPU; without PyTorch beside them."""
    return {
        "recipe openmoji_vqgan step, 8": ("recipe_step", (8, dtype), PLAIN),
        "recipe openmoji_vqgan step with its critic, 8": ("recipe_step", (8, dtype), DRAWINGS),
        "recipe openmoji_diffusion's DiT step, 32": ("prior_step", (32, dtype), NARROW_DIT),
        "recipe transformer step, 8x8 codes, 32": ("prior_step", (32, dtype), {"name": "transformer", **SMALL_MAP}),
        "recipe MaskGIT step, 8x8 codes, 32": ("prior_step", (32, dtype), {"name": "maskgit", **SMALL_MAP}),
    }


class Rival:
    """PyTorch in a process of its own, so that neither side has the other's threads and memory.

    `length`: seconds of a turn.
    """

    def __init__(self, reference: Path, length: float = TURN) -> None:
        if not (reference / "vq_vae_2").is_dir():
            raise SystemExit(f"error: {reference} is no checkout; git clone https://github.com/unixpickle/vq-vae-2")
        command = [sys.executable, str(ROOT / "benchmarks" / "speed_torch.py"), str(reference.resolve()), str(length)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)  # also where it is in the middle of a row
        self.ask("hello")

    def ask(self, question: Any) -> Any:
        """Sends a line, gives the answer."""
        self.send(question)
        return self.answer()

    def send(self, question: Any) -> None:
        """A line, whose answer may be waited for later."""
        assert self.process.stdin
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        except BrokenPipeError as error:
            raise SystemExit("error: PyTorch's side ended; what it said stands above (pip install torch?)") from error

    def answer(self) -> Any:
        """Of the question that was sent. RuntimeError where PyTorch raised."""
        assert self.process.stdout
        try:
            answer = json.loads(self.process.stdout.readline())
        except json.JSONDecodeError as error:
            raise SystemExit("error: PyTorch's side ended; what it said stands above (pip install torch?)") from error
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"PyTorch: {answer['error']}")
        return answer

    def settings(self, row: Row) -> dict[str, Callable[[], float]]:
        """What runs a turn of each of PyTorch's fastest settings, and gives the seconds of one step."""
        self.send(list(row))
        return self.prepared()

    def prepared(self) -> dict[str, Callable[[], float]]:
        """The same, of a row that was sent."""
        return {name: functools.partial(self.ask, name) for name in self.answer()}


def measure(row: Row, limit: Peak, rival: Rival | None) -> dict[str, Any]:
    """One row, everything about it."""
    function, arguments, fields = row
    work = getattr(ours, function)(*arguments, **fields)
    cold, warm, memory = compiled(work.program)
    runs: dict[str, Callable[[], float]] = {"ours": turns_of(work.step, work.state, *work.inputs)}
    if rival:
        runs |= rival.settings(row)
    spent = in_turns(runs)
    needed = limit.seconds(work.flops, work.moved)
    found: dict[str, Any] = {"ms": 1e3 * statistics.median(spent["ours"]), "memory_mb": memory / 1e6}
    found |= {"limit": needed / statistics.median(spent["ours"]), "cold_s": cold, "warm_s": warm}
    return found | beside(spent)


def beside(spent: dict[str, list[float]]) -> dict[str, Any]:
    """What the rounds say of ours and the fastest of PyTorch's settings; nothing where there is none."""
    others = [name for name in spent if name != "ours"]
    if not others:
        return {}
    best = min(others, key=lambda name: statistics.median(spent[name]))
    ratios = sorted(a / b for a, b in zip(spent["ours"], spent[best], strict=True))
    found = {"torch_ms": 1e3 * statistics.median(spent[best]), "torch": best}
    return found | {"ratio": statistics.median(ratios), "ratios": [ratios[0], ratios[-1]]}


def compiled(program: Callable[[], Any]) -> tuple[float, float, float]:
    """Seconds to trace and compile without a cache and with one, and bytes of memory."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        for _ in range(2):
            jax.clear_caches()
            began = time.perf_counter()
            memory = planned(program().compile())
            seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1], memory


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Inside, every compiled program is kept in this folder."""
    inside = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in inside}
    for values in (inside, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is inside:
            yield


def scaling(dtype: str) -> dict[str, float]:
    """How many times as long a step takes where one thing is doubled: 4 levels have a side that 2 have."""
    batch, base = 16, SMALL
    cases: dict[str, tuple[int, dict[str, int]]] = {
        "base": (batch, base),
        "batch": (2 * batch, base),
        "side": (batch, base | {"size": 128}),
        "codes": (batch, base | {"codes": 1024}),
        "levels": (batch, base | {"levels": 4}),
    }
    work = {name: ours.autoencoder_step(b, dtype, **fields) for name, (b, fields) in cases.items()}
    ms = milliseconds({name: turns_of(one.step, one.state, *one.inputs) for name, one in work.items()})
    return {"base_ms": ms["base"]} | {name: ms[name] / ms["base"] for name in cases if name != "base"}


START = """
import os, sys, time
sys.path.insert(0, os.getcwd())
from vqvae_jax.devices import use_large_pages
use_large_pages()
import launch
from vqvae_jax import train
begin = train.Run.begin
def first_step(run, *given):
    state, step = begin(run, *given), run.step
    def once(state, *given):
        step(state, *given)[1]["loss"].block_until_ready()
        print(time.time(), flush=True)
        os._exit(0)
    run.step = once
    return state
train.Run.begin = first_step
launch.main(["--config=configs/openmoji_hierarchical.py", "--stage=autoencoder", "--workdir=" + sys.argv[1]])
"""


def start_up() -> list[float]:
    """Seconds from the start of a program to the end of the demo's first training step, of four starts in a row."""
    spent, plainly = [], {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    for _ in range(4):
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            command = [sys.executable, "-c", START, f"{folder}/demo"]
            said = subprocess.run(command, cwd=ROOT, env=plainly, capture_output=True, text=True)
            lines = said.stdout.split()
            if said.returncode or not lines:
                raise SystemExit(f"error: the demo did not start: {said.stderr[-500:]}")
            spent.append(float(lines[-1]) - began)
    return spent


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [name, f"{found['ms']:.4g}", f"{found['limit']:.0%}", f"{found['memory_mb']:.0f}"]
    cells += [f"{found['cold_s']:.1f}", f"{found['warm_s']:.1f}"]
    if "ratio" in found:
        low, high = found["ratios"]
        digits = 2 if found["ratio"] > 0.1 else 4
        spread = f"{found['ratio']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        cells += [f"{found['torch_ms']:.4g}", found["torch"], spread]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join(cells) + " |"


def read_flags() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--reference", metavar="PATH", type=Path, help="a checkout of the PyTorch reference")
    flags.add_argument("--json", metavar="FILE", type=Path, help="where the numbers are written, too")
    flags.add_argument("--dtype", choices=DTYPES, help="default: float32; both on accelerators")
    flags.add_argument("--rows", metavar="TEXT", default="", help="only rows whose name has this text, nothing else")
    return flags.parse_args()


def main() -> int:
    """Prints the tables; what is there so far is in the file after each row."""
    given = read_flags()
    dtypes = [given.dtype] if given.dtype else DTYPES[:1] if CPU else DTYPES
    chosen = {dtype: {name: row for name, row in rows(dtype).items() if given.rows in name} for dtype in dtypes}
    if not any(chosen.values()):
        there = "; ".join(rows(dtypes[0]))
        raise SystemExit(f"error: no row has --rows={given.rows!r} in its name; there are: {there}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that PyTorch's process ends as well
    rival = Rival(given.reference) if given.reference else None
    kept: dict[str, Any] = {"machine": described("jax", "jaxlib", *(["torch"] if rival else [])), "rows": {}}
    keep(given.json, kept)
    print(kept["machine"], flush=True)
    for dtype in dtypes:
        limit = peak(dtype)
        kept[f"peak {dtype}"] = limit._asdict()
        print(f"\n{dtype}: {limit.flops / 1e9:.0f} GFLOP/s in products, {limit.bandwidth / 1e9:.0f} GB/s\n")
        print("| work | ms | limit | memory | cold | warm | torch | its setting | ratio |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for name, row in chosen[dtype].items():
            twin = None if name in recipes(dtype) else rival
            kept["rows"][f"{name}, {dtype}"] = found = measure(row, limit, twin)
            print(line(name, found), flush=True)
            keep(given.json, kept)
    if not given.rows:
        keep(given.json, kept | around())
    return 0


def keep(file: Path | None, kept: dict[str, Any]) -> None:
    """Writes the numbers, where a file is asked for."""
    try:
        if file:
            write_json(file, kept)
    except OSError as error:
        raise SystemExit(f"error: --json={file}: {error}; name another file") from error


def around() -> dict[str, Any]:
    """What is beside the rows, printed as well."""
    costs = scaling("float32")
    said = ", ".join(f"{name} {times:.2f}" for name, times in costs.items() if name != "base_ms")
    print(f"\na step of {costs['base_ms']:.0f} ms takes so many times as long with twice the … : {said}", flush=True)
    images = {name: pipeline.rates(name) for name in pipeline.CONFIGS}
    said = (f"{name} {arrays:,.0f} of {step:,.0f}" for name, (step, arrays) in images.items())
    print("images a second that come in, of those that a step takes:", ", ".join(said), flush=True)
    seconds = start_up()
    print("start of the demo to its first step, s:", ", ".join(f"{s:.1f}" for s in seconds), flush=True)
    return {"scaling": costs, "images a second": images, "start-up": seconds}


if __name__ == "__main__":
    sys.exit(main())
