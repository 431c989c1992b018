"""What accelerator.py has measured in a process of its own: python benchmarks/accelerator_worker.py JOB.json

JOB.json says which rows, until when, and where things lie. Each line of standard output is one of
{"begins": [names]}, {"row": name, "found": {…}}, {"row": name, "error": …}, {"row": name, "skipped": why}. What rows do
stands here, a function each; those of training and sampling are speed_rows.py's.
"""

import functools
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from accelerator_rows import Row, groups, of_limit  # noqa: E402

TURN, ROUNDS = 0.2, 5  # seconds and number of turns
TRACED, LONG = 3, 0.3  # steps in a profile; one where a step takes so many seconds
SHARE = 0.9  # of the memory that the largest batch may take
TRACES, TRACE_BYTES = 3, 15 << 20  # how many traces are kept, and how large they may be
STAGES = r"^(autoencoder|top|bottom): (?:starts|goes on)|^(encoding|evaluating|sampling)|^(look at)"
FINISHED = r"Finished (.+?) in ([\d.]+) sec"


class Job(NamedTuple):
    """What JOB.json says."""

    rows: list[Row]
    works: dict[str, Row]  # all rows of training and sampling, for those that need one
    reached: dict[str, float]  # of those measured in an earlier call: the share of the limit
    until: float  # seconds since 1970
    together: bool  # whether a group compiles side by side
    scratch: str
    output: str
    data: str  # folder with open_moji/, or "" where the packages draw it
    pytorch: str  # a checkout, or ""


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> int:
    told = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    works = {name: Row(**row) for name, row in told["works"].items()}
    job = Job(**{**told, "rows": [Row(**row) for row in told["rows"]], "works": works})
    bench = Bench(job)
    for group in groups(job.rows) if job.together else [[row] for row in job.rows]:
        bench.run(group)
    return 0


class Bench:
    """The rows of a job, and what later ones need of earlier ones."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.held: dict[str, Held] = {}  # works by name of their row
        self.limits: dict[str, Any] = {}  # the machine's, by dtype
        self.rival: Any = None
        self.asked = False  # whether PyTorch prepares a row
        self.reached = dict(job.reached)  # share of the limit, by name

    def run(self, group: list[Row]) -> None:
        """Prepares the rows side by side, then measures one by one; one that fails is told, the others go on."""
        fitting = [row for row in group if self.fits(row)]
        if not fitting:
            return
        say(begins=[row.name for row in fitting])
        prepared: dict[str, Any] = {}
        with ThreadPoolExecutor(max(1, len(fitting))) as pool:
            for row in sorted(fitting, key=lambda row: row.function != "beside"):  # PyTorch begins first
                prepare = PREPARE.get(row.function, nothing)
                prepared[row.name] = attempt(functools.partial(prepare, self, row, pool))
            for row in fitting:  # nothing is timed while something compiles
                wait(prepared[row.name])
            self.wait_for_torch(2 * max(row.seconds for row in fitting))
        for row in fitting:
            before = prepared[row.name]
            measure = functools.partial(MEASURE[row.function], self, row, before)
            found = before if isinstance(before, Failed) else attempt(measure)
            say(row=row.name, **({"error": found.why} if isinstance(found, Failed) else found))

    def wait_for_torch(self, seconds: float) -> None:
        """Until PyTorch has prepared what it was asked for; so long at most."""
        if self.asked:
            select.select([self.rival.process.stdout], [], [], seconds)

    def fits(self, row: Row) -> bool:
        """Whether there is time for it."""
        left = self.job.until - time.time()
        if left < row.seconds:
            say(row=row.name, skipped=f"takes about {row.seconds:.0f} s, {max(left, 0):.0f} s were left")
        return left >= row.seconds

    def holding(self, name: str) -> "Held":
        """A work, compiled now where an earlier call measured it."""
        if name not in self.held:
            with ThreadPoolExecutor(1) as pool:
                prepare_work(self, self.job.works[name], pool)
        return self.held[name]

    def limit(self, dtype: str) -> Any:
        """What the machine reaches in a large product, and its memory's bandwidth; measured once."""
        from machine import peak

        if dtype not in self.limits:
            self.limits[dtype] = peak(dtype)
            flops, bandwidth = self.limits[dtype]
            say(row=f"limit {dtype}", found={"tflops": flops / 1e12, "gb_per_s": bandwidth / 1e9})
        return self.limits[dtype]


class Failed(NamedTuple):
    """Why a row has no result."""

    why: str


def attempt(function: Callable[[], Any]) -> Any:
    """What it gives, or why it does not; the whole story goes to the log."""
    import traceback

    try:
        return function()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reason = str(error).strip().split("\n")[0]
        return Failed(f"{type(error).__name__}: {reason}"[:400])


def nothing(bench: "Bench", row: Row, pool: Any) -> None:
    """Most rows prepare nothing."""


def wait(prepared: Any) -> None:
    if isinstance(prepared, Held):
        prepared.compiled.exception()


# --- training and sampling


class Held(NamedTuple):
    """A work that is compiled, or compiling, and what runs so many steps of it."""

    work: Any
    seconds: Callable[[int], float]
    compiled: Future
    traced: float  # seconds


def prepare_work(bench: Bench, row: Row, pool: ThreadPoolExecutor) -> Held:
    """Traces it here, one after the other, and has it compiled in a thread."""
    import speed_rows
    from turns import repeated

    began, fields = time.perf_counter(), row.fields
    work = getattr(speed_rows, fields["function"])(*fields["arguments"], **tuples(fields["fields"]))
    lowered = work.program()
    traced = time.perf_counter() - began

    def compiled() -> tuple[Any, float]:
        began = time.perf_counter()
        return lowered.compile(), time.perf_counter() - began

    held = Held(work, repeated(work.step, work.state, *work.inputs), pool.submit(compiled), traced)
    bench.held[row.name] = held
    return held


def measure_work(bench: Bench, row: Row, held: Held) -> dict[str, Any]:
    """Milliseconds, rates, shares of the limits, memory, seconds to compile."""
    from machine import planned

    program, compile_s = held.compiled.result()
    dtype = row.fields["arguments"][-1] if isinstance(row.fields["arguments"][-1], str) else "float32"
    limit = bench.limit(dtype)
    spent = median_of_turns(held.seconds)
    found = {"ms": 1e3 * spent, "per_second": row.fields["items"] / spent, "compile_s": compile_s}
    found |= {"trace_s": held.traced, "plan_mb": planned(program) / 1e6}
    found |= shares(program, held.work.flops, spent, limit)
    bench.reached[row.name] = of_limit(found, "draws" in row.fields)
    if row.fields.get("cached"):
        found["from_cache_s"] = from_cache(held.work.program)
    return {"found": found}


def tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """As Python has them: JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def median_of_turns(seconds: Callable[[int], float]) -> float:
    import statistics

    from turns import turn

    seconds(1)
    one = min(seconds(1), seconds(1))
    return statistics.median(turn(seconds, one, TURN) for _ in range(ROUNDS if one < 1 else 2))


def shares(program: Any, flops: float, spent: float, limit: Any) -> dict[str, float]:
    """TFLOP/s by the plain layers and by XLA's analysis, and the shares of the product's rate and of the bandwidth."""
    cost = costs(program)
    found = {"tflops": flops / spent / 1e12, "of_rate": flops / spent / limit.flops}
    found |= {"xla_tflops": cost.get("flops", 0.0) / spent / 1e12}
    moved = cost.get("bytes accessed", 0.0)
    return found | {"gb": moved / 1e9, "of_bandwidth": moved / spent / limit.bandwidth}


def costs(program: Any) -> dict[str, float]:
    """XLA's analysis of what it compiled; {} where it gives none."""
    try:
        found = program.cost_analysis()
    except RuntimeError:
        return {}
    return (found[0] if isinstance(found, list) else found) or {}


def from_cache(program: Callable[[], Any]) -> float:
    """Seconds to trace and compile once more, the persistent cache filled."""
    import jax

    jax.clear_caches()
    began = time.perf_counter()
    program().compile()
    return time.perf_counter() - began


def measure_largest(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """The largest batch by XLA's plan of a smaller one, a quarter less where that does not fit after all."""
    import jax
    import speed_rows
    from machine import planned
    from turns import repeated

    from vqvae_jax.backend import memory

    known = bench.holding(row.fields["of"])
    program, batch = known.compiled.result()[0], len(jax.tree.leaves(known.work.inputs)[0])
    largest = row.fields["most"] or int(SHARE * (memory() or 0) / planned(program) * batch) // 32 * 32
    for _ in range(4):
        try:
            work = speed_rows.autoencoder_step(largest, "bfloat16", **row.fields["fields"])
            program, seconds = work.program().compile(), repeated(work.step, work.state, *work.inputs)
            spent = min(seconds(1), seconds(2), seconds(2))
            found = {
                "batch": largest,
                "ms": 1e3 * spent,
                "per_second": largest / spent,
                "plan_mb": planned(program) / 1e6,
            }
            return {"found": found | shares(program, work.flops, spent, bench.limit("bfloat16"))}
        except Exception as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            largest = largest * 3 // 4 // 32 * 32
    raise MemoryError(f"not even {largest} images fit")


# --- beside PyTorch


def prepare_beside(bench: Bench, row: Row, pool: Any) -> bool:
    """PyTorch begins to compile, in its own process: one question at a time, others are asked in their turn."""
    from speed import Rival

    if bench.rival is None:
        bench.rival = Rival(Path(bench.job.pytorch), TURN)
    if bench.asked:
        return False
    bench.asked = True
    bench.rival.send([row.fields[name] for name in ("function", "arguments", "fields")])
    return True


def measure_beside(bench: Bench, row: Row, asked: bool) -> dict[str, Any]:
    """Ours and PyTorch's two fastest settings in turns."""
    from speed import beside
    from turns import in_turns, turn

    if not asked:
        bench.rival.send([row.fields[name] for name in ("function", "arguments", "fields")])
    bench.asked = False
    settings = bench.rival.prepared()
    ours = bench.holding(row.name.removesuffix(" | PyTorch")).seconds
    ours(1)
    one = ours(1)
    spent = in_turns({"ours": lambda: turn(ours, one, TURN), **settings}, ROUNDS if one < 1 else 2)
    return {"found": {"ms": 1e3 * sorted(spent["ours"])[len(spent["ours"]) // 2], **beside(spent)}}


# --- profiles


def measure_profile(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """Of the work that is furthest from its limit and was not looked at yet: the table goes to profile.txt."""
    from vqvae_jax import profiling

    if not bench.reached:
        return {"skipped": "there are no more rows"}
    name = min(bench.reached, key=lambda name: bench.reached[name])
    bench.reached.pop(name)
    held, folder = bench.holding(name), Path(bench.job.scratch) / row.name.replace(" ", "")
    held.seconds(1)
    steps = TRACED if held.seconds(1) < LONG else 1
    with profiling.traced(folder):
        held.seconds(steps)
    busy, table = profiling.summary(folder, steps)
    keep(folder, Path(bench.job.output) / f"{folder.name}.xplane.pb.gz")
    text = f"## {name}\n\n{table}\n\n"
    with (Path(bench.job.output) / "profile.txt").open("a", encoding="utf-8") as file:
        file.write(text)
    return {"found": {"of": name, "steps": steps, **busy._asdict()}}


def keep(folder: Path, file: Path) -> None:
    """The trace itself, where it is small and among the first: a later reader may want to know more."""
    import gzip

    whole = b"".join(path.read_bytes() for path in folder.rglob("*.xplane.pb"))
    packed = gzip.compress(whole)
    if len(packed) < TRACE_BYTES and len(list(file.parent.glob("profile*.gz"))) < TRACES:
        file.write_bytes(packed)


# --- codebooks


def measure_sums(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """Sums of the vectors of each code in one form, and whether twenty runs give the same bits."""
    import jax
    import numpy as np
    from turns import repeated

    from vqvae_jax.networks import lookup

    vectors, dim, codes = row.fields["shape"]
    form = {"scatter": lookup.scattered, "product": lookup.multiplied}[row.fields["form"]]
    z = jax.random.normal(jax.random.key(0), (vectors, dim))
    indices = jax.random.randint(jax.random.key(1), (vectors,), 0, codes)
    function = jax.jit(lambda z, indices: form(z, indices, codes))
    first = np.asarray(function(z, indices))
    same = all(np.array_equal(first, np.asarray(function(z, indices))) for _ in range(20))
    step = jax.jit(lambda z, indices: z + 0 * form(z, indices, codes)[0, 0])
    return {"found": {"ms": 1e3 * median_of_turns(repeated(step, z, indices)), "repeatable": same}}


# --- is it right


def measure_attention(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """Values and gradients in bfloat16 of causal attention as chosen here, beside XLA's in float32; milliseconds."""
    import jax
    import jax.numpy as jnp
    from turns import repeated

    from vqvae_jax.backend import compute_capability, platform
    from vqvae_jax.networks import attention as attending

    q, k, v = (jax.random.normal(jax.random.key(i), tuple(row.fields["shape"]), jnp.bfloat16) for i in range(3))

    def both(attention: Any, *qkv: Any) -> Any:
        return jax.value_and_grad(lambda *qkv: jnp.sum(jnp.sin(attention(*qkv).astype(jnp.float32))), (0, 1, 2))(*qkv)

    plain = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla")
    exact = jax.jit(functools.partial(both, plain))(*(x.astype(jnp.float32) for x in (q, k, v)))
    how = attending.attention_implementation(platform(), q.dtype, q.shape[-1], compute_capability())
    found: dict[str, Any] = {"chosen": how}
    for name, attention in (("ours", attending.causal_attention), ("xla", plain)):
        function = jax.jit(functools.partial(both, attention))
        apart = jax.tree.map(lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), function(q, k, v), exact)
        step = lambda q, k, v, f=function: q + 0 * f(q, k, v)[1][0]  # noqa: E731
        found |= {
            f"{name}_apart": max(jax.tree.leaves(apart)),
            f"{name}_ms": 1e3 * median_of_turns(repeated(step, q, k, v)),
        }
    return {"found": found | {"passed": found["ours_apart"] < 2e-2}}


def measure_recording(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """A recording of PyTorch through import and compare, every product in full float32."""
    import jax

    from vqvae_jax.compare import recorded
    from vqvae_jax.interop import importing
    from vqvae_jax.types import UserError

    path = Path(row.fields["path"])
    heads = 4 if path.stem == "pixel_cnn_spatial_condition" else 2  # which weights do not show
    workdir = Path(bench.job.scratch) / "imported" / path.stem
    try:
        with jax.default_matmul_precision("highest"):
            importing.import_weights(path, workdir, heads=heads)
            rows = [one for one in recorded.compare(workdir, path) if not one.note.startswith("left out")]
    except UserError as error:
        if row.fields["known"]:
            raise
        return {"skipped": f"not yet: {str(error)[:80]}"}
    worst = max(rows, key=lambda one: one.relative / one.tolerance if one.tolerance else float(one.relative > 0))
    found = {"passed": all(one.passed for one in rows), "compared": len(rows), "worst": worst.tensor}
    return {"found": found | {"relative": worst.relative, "allowed": worst.tolerance}}


def measure_resumed(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """The tiny demo's first two stages, whole; whole again; and stopped in the middle: arrays that differ."""
    from vqvae_jax.devices import use_compilation_cache

    use_compilation_cache()
    steps, folder = row.fields["steps"], Path(bench.job.scratch) / row.name.replace(" ", "_")
    for name, stops in (("whole", (steps,)), ("again", (steps,)), ("stopped", (steps // 2, steps))):
        for stage in ("autoencoder", "top"):
            for stop in stops:
                train_tiny(bench.job.data, folder / name, stage, {"autoencoder": steps, stage: stop})
    whole = arrays_of(folder / "whole")
    return {"found": {name: differing(whole, arrays_of(folder / name)) for name in ("again", "stopped")}}


def train_tiny(data: str, workdir: Path, stage: str, steps: dict[str, int]) -> None:
    """A stage of the tiny demo at a constant learning rate, so that its length changes nothing."""
    from vqvae_jax import config, recipe

    changes = [f"--config.dataset.path={data}"] if data else []
    for name, prefix in (("autoencoder", ""), ("top", "priors.top.")):
        many = steps.get(name, steps["autoencoder"])
        changes += [f"--config.{prefix}optimizer.schedule=constant", f"--config.{prefix}train.steps={many}"]
        changes += [f"--config.{prefix}train.{what}_every=1000" for what in ("evaluate", "checkpoint", "pictures")]
    recipe.run(config.read("configs/openmoji_hierarchical.py:tiny", changes), workdir, stage)


def arrays_of(workdir: Path) -> list[Any]:
    """All arrays of both stages' models, as numpy."""
    import jax
    import numpy as np

    from vqvae_jax import config
    from vqvae_jax import facts as facts_file
    from vqvae_jax.parts import Parts

    settings, facts = config.load(workdir), facts_file.read(workdir)
    models = [Parts(settings, facts).load(workdir, stage) for stage in ("autoencoder", "top")]
    return [np.asarray(x) for x in jax.tree.leaves(models)]


def differing(one: list[Any], other: list[Any]) -> dict[str, Any]:
    """How many arrays are not the same bits, and by how much."""
    import numpy as np

    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.tobytes() != b.tobytes()]
    apart = [float(np.max(np.abs(a.astype(np.float64) - b))) for a, b in pairs]
    return {"arrays": len(one), "differ": len(apart), "largest": max(apart, default=0.0)}


# --- the demo


def measure_demo(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    """launch.py from nothing to samples: seconds a stage, metrics, what took longest to compile."""
    workdir = Path(bench.job.scratch) / "demo"
    config = "configs/openmoji_hierarchical.py" + (f":{row.fields['variant']}" if row.fields["variant"] else "")
    command = [sys.executable, "launch.py", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.dataset.path={bench.job.data}"] if bench.job.data else []
    began, marks, compiled = time.time(), {}, {}
    for line in lines_of(command):
        if stage := re.match(STAGES, line):
            marks[next(filter(None, stage.groups()))] = time.time() - began
            print(f"{time.time() - began:.1f} s: {line}", file=sys.stderr, flush=True)
        elif finished := re.search(FINISHED, line):
            compiled[finished[1]] = compiled.get(finished[1], 0.0) + float(finished[2])
        else:
            print(line, file=sys.stderr, flush=True)
    whole = time.time() - began
    metrics = json.loads((workdir / "metrics.json").read_text("utf-8"))
    (Path(bench.job.output) / "samples.png").write_bytes((workdir / "samples.png").read_bytes())
    longest = sorted(compiled.items(), key=lambda one: -one[1])[:12]
    return {"found": {"seconds": whole, "begins": marks, "metrics": metrics, "compiling": dict(longest)}}


def lines_of(command: list[str]) -> Iterator[str]:
    """What a program says, line by line; RuntimeError where it fails."""
    environment = {**os.environ, "JAX_LOG_COMPILES": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    last = ""
    for line in process.stdout or ():
        last = line.rstrip() or last
        yield line.rstrip()
    if process.wait():
        raise RuntimeError(f"{' '.join(command[1:3])} ended with {process.returncode}: {last}")


def measure_later(bench: Bench, row: Row, before: Any) -> dict[str, Any]:
    return {"skipped": row.fields["why"]}


PREPARE: dict[str, Callable[..., Any]] = {"work": prepare_work, "beside": prepare_beside}
MEASURE: dict[str, Callable[..., dict[str, Any]]] = {
    "work": measure_work,
    "largest": measure_largest,
    "beside": measure_beside,
    "profile": measure_profile,
    "sums": measure_sums,
    "recording": measure_recording,
    "resumed": measure_resumed,
    "attention": measure_attention,
    "demo": measure_demo,
    "later": measure_later,
}

if __name__ == "__main__":
    sys.exit(main())
