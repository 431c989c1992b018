"""An accelerator's first quarter of an hour: is it right, how fast is it, where does the time go.

    python benchmarks/accelerator.py --rehearse                    seconds a row, on whatever machine this is
    python benchmarks/accelerator.py --minutes=9 --output=DIR      everything, the most valuable first
    python benchmarks/accelerator.py --resume=DIR --output=MORE    what is missing there

In this order: recordings of PyTorch, a stopped run that goes on, the demo from nothing to samples; training steps;
the same beside PyTorch; sampling; profiles of the rows furthest from the machine's limit; nearest codes. Rows are in
accelerator_rows.py. A row is in DIR/results.json the moment it ends, and what it costs no other row can lose: they run
in processes of their own, each row with a time limit. DIR has profile.txt, samples.png, table.md and log.txt too.

Without a network, `make accelerator-data` packs what the run needs: data, recordings, wheels of missing packages.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from accelerator_data import PACKED, WHEELS, unpacked  # noqa: E402
from accelerator_rows import Row, of_limit, shifts  # noqa: E402

WORKER = ROOT / "benchmarks" / "accelerator_worker.py"
RESULTS = "results.json"
PATIENCE = 120  # seconds that JAX has to find the devices
FOR_SHOW = 10.0  # seconds that are kept for the table
SLACK, LEAST = 2.5, 60.0  # a row may take so many times what it should, and at least so many seconds
LEAVING = 10.0  # seconds that a process has to end after its last word
LOOK = 1.0  # seconds between two looks at the clock
ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the device
    "JAX_NUMPY_RANK_PROMOTION": "allow",
}
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
OVER = "the minutes were over"


def main() -> int:
    """0 where no row failed."""
    given = read_flags()
    given.output.mkdir(parents=True, exist_ok=True)
    until = time.time() + 60 * given.minutes - (0 if given.rehearse else FOR_SHOW)
    results = Results(given.output, given.resume, given.rehearse)
    with tempfile.TemporaryDirectory(prefix="accelerator") as scratch:
        paths = install(Path(scratch) / "site")
        results.put("machine", {"found": machine()})
        data = unpacked(PACKED, Path(scratch) / "data")
        told = {"until": until, "scratch": scratch, "output": str(given.output.resolve()), "data": data}
        told["pytorch"] = str(given.pytorch.resolve()) if given.pytorch else ""
        every = shifts(given.rehearse, recordings(given.reference), bool(given.pytorch))
        rows = [row for shift in every for job in shift for row in job]
        if not any(re.search(given.rows, row.name) for row in rows):
            refuse(f"--rows={given.rows!r} finds none of: {'; '.join(row.name for row in rows)}")
        told["works"] = {row.name: row._asdict() for row in rows if row.function == "work"}
        for shift in every:
            jobs = [wanted(job, results, given.rows) for job in shift]
            work_off([job for job in jobs if job], told, paths, results)
    return results.show()


def read_flags() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, default=9, help="what is not begun by then is left out (default 9)")
    flags.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs/accelerator"), help="default %(default)s"
    )
    flags.add_argument("--resume", metavar="DIR", type=Path, help="rows with a result there are not measured again")
    flags.add_argument("--rehearse", action="store_true", help="tiny sizes, the same code")
    flags.add_argument("--rows", metavar="PATTERN", default="", help="only rows whose name this finds (re.search)")
    flags.add_argument(
        "--reference", metavar="DIR", type=Path, action="append", help="more recordings of PyTorch, .npz"
    )
    flags.add_argument("--pytorch", metavar="PATH", type=Path, help="a checkout of github.com/unixpickle/vq-vae-2")
    given = flags.parse_args()
    given.output = given.output or Path("runs/rehearsal" if given.rehearse else "runs/accelerator")
    check_folders(given)
    try:
        re.compile(given.rows)
    except re.error as error:
        refuse(f"--rows={given.rows!r} is no pattern: {error}; escape brackets as \\(")
    packed = PACKED / "vq-vae-2"
    given.pytorch = given.pytorch or (packed if packed.is_dir() else None)
    if given.pytorch and not importlib.util.find_spec("torch"):
        print("PyTorch is not installed: its rows are left out", file=sys.stderr)
        given.pytorch = None
    given.reference = [ROOT / "tests" / "reference", PACKED / "reference", *(given.reference or [])]
    if given.rehearse:
        given.reference = given.reference[:1] + given.reference[2:]
    return given


def check_folders(given: argparse.Namespace) -> None:
    """Nothing that was measured is written over, and a rehearsal is no measurement."""
    again, there = given.resume, given.output / RESULTS
    if again and not (again / RESULTS).is_file():
        refuse(f"--resume={again} has no {RESULTS}")
    if again and bool(read_results(again).get("rehearsal")) != given.rehearse:
        refuse(
            f"--resume={again}: a rehearsal's results are not those of a measurement; leave --resume or --rehearse out"
        )
    if there.is_file() and (again is None or again.resolve() != given.output.resolve()):
        if not given.rehearse or not read_results(given.output).get("rehearsal"):
            refuse(f"{given.output} has results; --resume={given.output} goes on there, or another --output=DIR")
        for old in (*given.output.glob("profile*"), there):
            old.unlink()


def refuse(why: str) -> None:
    """One line, exit 2."""
    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(2)


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of a folder; SystemExit where it is damaged."""
    try:
        results = json.loads((folder / RESULTS).read_text("utf-8"))
        if not isinstance(results, dict) or not isinstance(results.get("rows"), dict):
            raise ValueError("it has no rows")
        return results
    except ValueError as error:
        raise SystemExit(f"error: {folder / RESULTS} is damaged ({error}); leave it out") from error


def recordings(folders: Sequence[Path]) -> dict[str, Path]:
    """The .npz files of these folders, by name."""
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.npz"))}


def wanted(job: list[Row], results: "Results", pattern: str) -> list[Row]:
    """The rows of a job that have no result yet."""
    return [row for row in job if re.search(pattern, row.name) and row.name not in results.done]


def install(site: Path) -> list[str]:
    """Missing packages from packed wheels; gives what PYTHONPATH begins with."""
    missing = [package for module, package in WHEELS.items() if not importlib.util.find_spec(module)]
    names = [package.replace("-", "_") for package in missing]  # as files have them
    wheels = [str(path) for name in names for path in (PACKED / "wheels").glob(f"{name}-*.whl")]
    if missing and len(wheels) < len(missing):
        raise SystemExit(f"error: {', '.join(missing)} missing: pip install them, or make accelerator-data elsewhere")
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site)]
        subprocess.run([*command, *wheels], check=True)
    return [str(site)] if wheels else []


def machine() -> dict[str, Any]:
    """What the device and the versions are, asked in a process of its own."""
    code = "import json, machine; print(json.dumps({'is': machine.described('jax', 'jaxlib', 'flax')}))"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"error: JAX found no device in {PATIENCE} s; is another process holding it?") from error
    if answer.returncode:
        why = answer.stderr.strip().splitlines() or [f"its process ended with {answer.returncode}"]
        raise SystemExit(f"error: JAX does not start: {why[-1]}")
    return json.loads(answer.stdout.splitlines()[-1])


def environment(paths: list[str], scratch: str, deterministic: bool) -> dict[str, str]:
    """Of the processes that measure: a cache of their own, empty at first, another one for XLA's flag."""
    variables = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])}
    variables |= {"VQVAE_JAX_CACHE": f"{scratch}/cache", "JAX_COMPILATION_CACHE_DIR": f"{scratch}/compiled"}
    if deterministic:
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
        variables["JAX_COMPILATION_CACHE_DIR"] += "-deterministic"
    return variables


# --- jobs


class Worker:
    """A process that works off some rows: those left, those it is at, and when it spoke last."""

    def __init__(self, rows: list[Row], told: Mapping[str, Any], variables: Mapping[str, str], log: Any) -> None:
        self.rows, self.left, self.running = rows, {row.name: row for row in rows}, []
        self.since, self.killed = time.time(), False
        file = Path(told["scratch"]) / f"job{time.monotonic_ns()}.json"
        file.write_text(json.dumps({**told, "rows": [row._asdict() for row in rows]}), "utf-8")
        command = [sys.executable, str(WORKER), str(file)]
        words = {"stdout": subprocess.PIPE, "stderr": log, "encoding": "utf-8", "errors": "replace"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=variables, start_new_session=True, **words)

    def limit(self) -> float:
        """Seconds that may pass without a word: what its rows should take, with slack; less where it said all."""
        if not self.left:
            return LEAVING
        return max(LEAST, SLACK * sum(self.left[name].seconds for name in self.running))

    def overdue(self, until: float) -> dict[str, str]:
        """Why it has to be ended, as a result; {} where it may go on."""
        if time.time() - self.since > self.limit():
            return {"error": "took too long"}
        return {"skipped": OVER} if time.time() > until + FOR_SHOW / 2 else {}

    def ended(self) -> int | None:
        """Its exit code, after its last word; what it started ends with it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVING)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """The process and all that it started, once."""
        if self.killed:
            return
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a device's driver may hold it
            self.process.wait(LEAVING)


def work_off(jobs: list[list[Row]], told: Mapping[str, Any], paths: list[str], results: "Results") -> None:
    """Jobs side by side, to their end or until there is no time; a row that kills its process costs itself alone."""
    lines: queue.Queue = queue.Queue()
    with (Path(told["output"]) / "log.txt").open("a", buffering=1, encoding="utf-8") as log:

        def begin(rows: list[Row], together: bool) -> Worker:
            variables = environment(paths, told["scratch"], any(row.fields.get("deterministic") for row in rows))
            worker = Worker(rows, {**told, "together": together, "reached": results.reached()}, variables, log)
            threading.Thread(target=read, args=(worker, lines), daemon=True).start()
            return worker

        workers = [begin(rows, True) for rows in jobs]
        try:
            while workers:
                for worker in step(workers, lines, told["until"], results, log):
                    workers.remove(worker)
                    if worker.left and time.time() < told["until"]:
                        workers.append(begin(list(worker.left.values()), False))
        finally:
            for worker in workers:
                worker.kill()
    for name in (row.name for rows in jobs for row in rows):
        if name not in results.said:
            results.put(name, {"skipped": OVER})


def read(worker: Worker, lines: queue.Queue) -> None:
    """Each line, then None."""
    with worker.process.stdout as said:
        for line in said:
            lines.put((worker, line))
    lines.put((worker, None))


def step(workers: list[Worker], lines: queue.Queue, until: float, results: "Results", log: Any) -> Iterator[Worker]:
    """Takes a line in; gives the workers that ended, or had to be ended: of those nothing more is heard."""
    with contextlib.suppress(queue.Empty):
        worker, line = lines.get(timeout=LOOK)
        if worker in workers and line is not None:
            take(worker, line, results, log)
        elif worker in workers:
            blame(worker, {"error": f"its process ended with {worker.ended()}; see log.txt"}, results, log)
            yield worker
    for worker in list(workers):  # also while others speak
        if worker.process.poll() is not None:
            worker.kill()  # what it started may hold its pipe, and its last word would not come
        if why := worker.overdue(until):
            worker.kill()
            blame(worker, why, results, log)
            yield worker


def blame(worker: Worker, why: Mapping[str, Any], results: "Results", log: Any) -> None:
    """Puts the end of a process down to its row, or to all where it began none; several side by side are left."""
    if len(worker.running) > 1 and "error" in why:
        log.write(f"{', '.join(worker.running)}: {why['error']}; each is tried alone\n")
    blamed = worker.running if len(worker.running) == 1 else []
    if not worker.running and len(worker.left) == len(worker.rows):
        blamed = list(worker.left)
    for name in blamed:
        worker.left.pop(name)
        results.put(name, why)


def take(worker: Worker, line: str, results: "Results", log: Any) -> None:
    """One line of a worker: a result, or what it is at; all else goes to the log and is no word of it."""
    said = understood(line)
    if said is None:
        log.write(line)
        return
    worker.since = time.time()
    if "begins" in said:
        worker.running = said["begins"]
        return
    name = said.pop("row")
    worker.running = [other for other in worker.running if other != name]
    worker.left.pop(name, None)  # the machine's limits are among no one's rows
    results.put(name, said)


def understood(line: str) -> dict[str, Any] | None:
    """What say() of accelerator_worker.py said; None where something else printed the line."""
    try:
        said = json.loads(line)
    except json.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and ("begins" in said or "row" in said) else None


# --- results


class Results:
    """What is known so far; in results.json after each row."""

    def __init__(self, folder: Path, before: Path | None, rehearsal: bool = False) -> None:
        self.file, self.began = folder / RESULTS, time.time()
        self.rows: dict[str, dict[str, Any]] = {}
        if before:
            old = read_results(before)["rows"]
            self.rows = {name: row for name, row in old.items() if "found" in row}
            for name in ("profile.txt", "samples.png"):
                if before.resolve() != folder.resolve() and (before / name).is_file():
                    shutil.copy(before / name, folder / name)
        self.done, self.said, self.rehearsal = set(self.rows), set(), rehearsal

    def put(self, name: str, what: Mapping[str, Any]) -> None:
        self.rows[name] = {**what, "at": round(time.time() - self.began, 1)}
        self.said.add(name)
        text = json.dumps({"rehearsal": self.rehearsal, "rows": self.rows}, indent=1)
        temporary = self.file.with_suffix(".new")
        temporary.write_text(text, "utf-8")
        temporary.replace(self.file)
        print(f"{time.time() - self.began:5.0f} s  {brief(name, what)}", flush=True)

    def reached(self) -> dict[str, float]:
        """The share of its limit that each work without a profile reached."""
        looked_at = {row["found"].get("of") for row in self.rows.values() if "found" in row}
        works = {name: row["found"] for name, row in self.rows.items() if "of_rate" in row.get("found", {})}
        return {
            name: of_limit(found, "sample" in name)
            for name, found in works.items()
            if name not in looked_at and "largest" not in name
        }

    def show(self) -> int:
        """Writes table.md and prints it; 1 where a row failed."""
        text = "\n".join(table(self.rows))
        (self.file.parent / "table.md").write_text(text + "\n", "utf-8")
        print(text)
        failed = [name for name, row in self.rows.items() if "error" in row]
        wrong = [name for name, row in self.rows.items() if row.get("found", {}).get("passed") is False]
        print(f"\n{len(self.rows)} rows, {len(failed)} failed, {len(wrong)} recordings too far: {self.file.parent}")
        return 1 if failed or wrong else 0


def brief(name: str, what: Mapping[str, Any]) -> str:
    """A line about a row."""
    if "found" not in what:
        return f"{name}: " + (f"failed: {what['error']}" if "error" in what else f"left out: {what.get('skipped')}")
    return f"{name}: " + ", ".join(f"{key} {number(value)}" for key, value in flat(what["found"]))


def flat(found: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that lies in a result, by its path."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COLUMNS = {
    "ms": ("ms", "{:.4g}"),
    "per_second": ("a second", "{:.4g}"),
    "tflops": ("TFLOP/s, plain layers", "{:.1f}"),
    "xla_tflops": ("TFLOP/s, XLA", "{:.1f}"),
    "of_rate": ("of the product's rate", "{:.0%}"),
    "of_bandwidth": ("of the bandwidth", "{:.0%}"),
    "plan_mb": ("memory, MB", "{:.0f}"),
    "compile_s": ("compiled, s", "{:.1f}"),
    "from_cache_s": ("from cache, s", "{:.1f}"),
}


def table(rows: Mapping[str, Any]) -> Iterator[str]:
    """Works as columns, all else as lines."""
    works = {name: row["found"] for name, row in rows.items() if "plan_mb" in row.get("found", {})}
    yield "| work | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"
    yield "|---|" + "---|" * len(COLUMNS)
    for name, found in works.items():
        cells = [form.format(found[key]) if key in found else "" for key, (_, form) in COLUMNS.items()]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    for name, row in rows.items():
        if name not in works:
            yield f"- {brief(name, row)}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or its processes would go on
    sys.exit(main())
