"""benchmarks/accelerator.py: the plan, time limits, what a row that fails costs, results, data; nothing is timed."""

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accelerator, accelerator_data, accelerator_worker
from vqvae_jax.data import openmoji
from vqvae_jax.data.arrays import Arrays

Row, Results = accelerator.Row, accelerator.Results
LATE, OVER = {"error": "took too long"}, {"skipped": "the minutes were over"}
BENCHMARKS = Path(accelerator.__file__).parent
# The real worker, whose rows do what their field says.
WORKER = f"""
import fcntl, os, signal, subprocess, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import accelerator_worker

def do(bench, row, before):
    found = {{"process": os.getpid()}}
    exec(row.fields["do"])
    return {{"found": found}}

def start_one_that_stays(name):
    file = open(os.path.join(sys.argv[1].rsplit("/", 1)[0], name), "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()])

accelerator_worker.MEASURE["do"] = do
accelerator_worker.main()
"""
STARTS_ONE = "start_one_that_stays('held'); "


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Limits of seconds, and a worker that measures nothing."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    small = {"WORKER": worker, "PACKED": tmp_path / "packed", "LEAST": 1.5, "LEAVING": 0.5, "LOOK": 0.1, "FOR_SHOW": 0}
    for name, value in small.items():
        monkeypatch.setattr(accelerator, name, value)


def doing(name, do="", group="", seconds=0.1):
    return Row(name, "do", {"do": do}, seconds, group)


def worked_off(folder, *jobs, minutes=1.0):
    """What results.json says of these jobs."""
    told = {"until": time.time() + 60 * minutes, "scratch": str(folder), "output": str(folder), "data": ""}
    told |= {"pytorch": "", "works": {}}
    accelerator.work_off(list(jobs), told, [], Results(folder, None))
    return saved(folder)


def saved(folder):
    rows = json.loads((folder / "results.json").read_text("utf-8"))["rows"]
    return {name: {key: value for key, value in row.items() if key != "at"} for name, row in rows.items()}


def released(file):
    """Whether every process that holds the file ends within seconds."""
    with file.open() as held:
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB) is None
            time.sleep(0.1)
    return False


@pytest.mark.parametrize("rehearse", [True, False])
@pytest.mark.parametrize("pytorch", [True, False])
def test_the_plan(rehearse, pytorch):
    recordings = {name: Path(f"{name}.npz") for name in ("unheard_of", "top_prior", "mnist_vae")}
    jobs = [job for shift in accelerator.shifts(rehearse, recordings, pytorch) for job in shift]
    rows = [row for job in jobs for row in job]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {row.function for row in rows} <= set(accelerator_worker.MEASURE)
    for row in rows:
        again = Row(**json.loads(json.dumps(row._asdict())))
        assert json.dumps(again) == json.dumps(row)
        if row.function in ("work", "beside"):
            assert accelerator_worker.tuples(again.fields["fields"]) == row.fields["fields"]
    grouped = [group[0].group for job in jobs for group in accelerator_worker.groups(job) if group[0].group]
    assert len(set(grouped)) == len(grouped)
    known = {row.name: row.fields["known"] for row in rows if row.function == "recording"}
    assert known == {"recording unheard_of": False, "recording top_prior": True, "recording mnist_vae": True}
    works = {row.name: row for row in rows if row.function == "work"}
    twins = [row for row in rows if row.function == "beside"]
    assert bool(twins) == pytorch
    assert all(twin.fields == works[twin.name.removesuffix(" | PyTorch")].fields for twin in twins)
    half = [names.index(name) for name, row in works.items() if "bfloat16" in row.fields["arguments"]]
    late = [names.index(name) for name, row in works.items() if "float32" in row.fields["arguments"]]
    assert len(half) > 6 and len(late) == 2
    assert max(half) < min(late) and max(half) < names.index("hierarchical VAE 256 px, largest batch")


def test_a_row_without_a_word_is_ended_with_all_it_started(tmp_path):
    late = doing("late", STARTS_ONE + "print('no word', flush=True); time.sleep(60)")
    found = worked_off(tmp_path, [doing("first"), late, doing("next"), doing("last")])
    assert found["late"] == LATE and released(tmp_path / "held")
    first, *rest = (found[name]["found"]["process"] for name in ("first", "next", "last"))
    assert rest[0] == rest[1] != first
    assert "no word" in (tmp_path / "log.txt").read_text("utf-8")


def test_a_limit_is_what_rows_take_and_printing_is_no_word(tmp_path):
    slow, fast = doing("slow", "time.sleep(1.7)", seconds=1.0), doing("fast", "time.sleep(60)")
    prints = doing("prints", "for i in range(300): print(i, flush=True); time.sleep(0.02)")
    found = worked_off(tmp_path, [slow], [fast], [prints])
    assert "found" in found["slow"] and found["fast"] == found["prints"] == LATE


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(3)", 3), ("os._exit(0)", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -9)]
)
def test_a_row_that_ends_its_process_costs_itself_alone(tmp_path, end, code):
    rows = [doing("first", group="one"), doing("ends", STARTS_ONE + end, "one"), doing("next", "", "one")]
    found = worked_off(tmp_path, [*rows, doing("last")])
    assert found.pop("ends") == {"error": f"its process ended with {code}; see log.txt"}
    assert set(found) == {"first", "next", "last"} and all("found" in row for row in found.values())
    assert released(tmp_path / "held")
    assert "ends, next: its process ended" in (tmp_path / "log.txt").read_text("utf-8")


@pytest.mark.parametrize(("start", "why"), [("import nowhere", 1), ("", 0)])
def test_a_worker_that_never_begins(tmp_path, capsys, start, why):
    accelerator.WORKER.write_text(start)
    found = worked_off(tmp_path, [doing("a"), doing("b")])
    assert found["a"] == found["b"] == {"error": f"its process ended with {why}; see log.txt"}
    assert capsys.readouterr().out.count("failed") == 2
    assert (tmp_path / "log.txt").read_text("utf-8").count("nowhere") == 2 * bool(start)  # one start: code and error


def test_a_worker_that_said_all_but_stays_is_ended(tmp_path):
    accelerator.WORKER.write_text(WORKER + "start_one_that_stays('held'); time.sleep(60)")
    began = time.time()
    found = worked_off(tmp_path, [doing("a", "print(3); print('null', flush=True)")])
    assert "found" in found["a"] and set(found) == {"a"}
    assert time.time() - began < 10 and released(tmp_path / "held")
    assert (tmp_path / "log.txt").read_text("utf-8").splitlines() == ["3", "null"]


def test_one_that_was_ended_is_not_heard_again(tmp_path, monkeypatch):
    """Also where its pipe stays open: a process out of its group has it."""
    kills, kill = [], os.killpg
    monkeypatch.setattr(os, "killpg", lambda *args: kills.append(args) or kill(*args))
    away = "subprocess.Popen(['sleep', '8'], start_new_session=True); print('{', flush=True); time.sleep(60)"
    began = time.time()
    assert worked_off(tmp_path, [doing("late", away)]) == {"late": LATE}
    assert time.time() - began < 7 and len(kills) == 1


def test_the_minutes_are_over(tmp_path):
    began = time.time()
    rows = [doing("in the middle", STARTS_ONE + "time.sleep(60)"), doing("not begun")]
    found = worked_off(tmp_path, rows, [doing("of two"), doing("too long", seconds=9.0)], minutes=1 / 60)
    assert found["in the middle"] == found["not begun"] == OVER
    assert "skipped" in found["too long"] and "of two" in found
    assert time.time() - began < 8 and released(tmp_path / "held")
    accelerator.WORKER.write_text("import time; time.sleep(60)")
    assert worked_off(tmp_path, [doing("a"), doing("b")], minutes=0) == {"a": OVER, "b": OVER}


def test_results_are_whole_at_any_time(tmp_path, monkeypatch):
    def half(path, text, *args):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError("no space left")

    results, rows = Results(tmp_path, None), {}
    for name in "abc":
        rows[name] = {"found": {"ms": 1.0}}
        results.put(name, rows[name])
        assert saved(tmp_path) == rows

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError):
        results.put("d", rows["c"])
    assert saved(tmp_path) == rows


def test_a_work_is_profiled_once(tmp_path):
    results, found = Results(tmp_path, None), {"of_rate": 0.3, "of_bandwidth": 0.5}
    for name in ("a", "b", "sample c", "a, largest batch"):
        results.put(name, {"found": found})
    results.put("profile 1", {"found": {"of": "b"}})
    assert results.reached() == {"a": 0.5, "sample c": 0.3}


def run(monkeypatch, rows, *argv):
    """main() with a plan of these rows."""
    monkeypatch.setattr(accelerator, "shifts", lambda *_: [[[row]] for row in rows])
    monkeypatch.setattr(accelerator, "machine", lambda: {"is": "fake"})
    monkeypatch.setattr(accelerator, "install", lambda site: [])
    monkeypatch.setattr(sys, "argv", ["accelerator.py", *argv])
    return accelerator.main()


def test_resume_measures_what_is_missing(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    rows = {"a": {"found": {"ms": 1.0}}, "b": {"error": "ValueError"}, "c": {"skipped": "not yet"}}
    (old / "results.json").write_text(json.dumps({"rows": rows}))
    (old / "profile.txt").write_text("heaviest")
    (old / "samples.png").write_bytes(b"drawn")
    assert run(monkeypatch, [doing(name) for name in "abcd"], f"--resume={old}", f"--output={new}") == 0
    found = saved(new)
    assert found["a"] == rows["a"] and all("process" in found[name]["found"] for name in "bcd")
    assert ((new / "profile.txt").read_text(), (new / "samples.png").read_bytes()) == ("heaviest", b"drawn")
    assert "- a: ms 1" in (new / "table.md").read_text()


def test_resume_without_results_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, [], f"--resume={tmp_path / 'none'}", f"--output={tmp_path / 'new'}")
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out and err.count("\n") == 1
    assert err.startswith("error: --resume=") and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("do", "code"), [("found['passed'] = True", 0), ("found['passed'] = False", 1), ("raise ValueError('no')", 1)]
)
def test_exit_code(tmp_path, monkeypatch, do, code):
    assert run(monkeypatch, [doing("a", do), doing("b")], f"--output={tmp_path}", "--rows=^a") == code
    assert set(saved(tmp_path)) == {"machine", "a"}


def test_a_row_that_raises_costs_itself_alone(monkeypatch, capsys):
    known = {"a": 1, "measures": 2, "b": 3}
    monkeypatch.setitem(accelerator_worker.PREPARE, "fake", lambda bench, row, pool: known[row.name])
    monkeypatch.setitem(accelerator_worker.MEASURE, "fake", lambda bench, row, x: {"found": {"x": {1: 1, 3: 3}[x]}})
    rows = [Row(name, "fake", {}, 5) for name in ("a", "prepares", "measures", "b")]
    job = accelerator_worker.Job(rows, {}, {}, time.time() + 100, True, "", "", "", "")
    accelerator_worker.Bench(job).run([*rows, Row("long", "fake", {}, 500)])
    skipped, begins, *said = map(json.loads, capsys.readouterr().out.splitlines())
    assert skipped["row"] == "long" and skipped["skipped"].startswith("takes about 500 s")
    assert begins == {"begins": ["a", "prepares", "measures", "b"]}
    wrong = {"row": "prepares", "error": "KeyError: 'prepares'"}, {"row": "measures", "error": "KeyError: 2"}
    assert said == [{"row": "a", "found": {"x": 1}}, *wrong, {"row": "b", "found": {"x": 3}}]


def test_arrays_that_differ():
    one = [np.zeros(3, np.float32), np.array([1.0, np.nan]), np.array([1, 2], np.uint8)]
    assert accelerator_worker.differing(one, [x.copy() for x in one]) == {"arrays": 3, "differ": 0, "largest": 0.0}
    other = [np.array([0, 0.5, -0.25], np.float32), one[1], np.array([1, 9], np.uint8)]
    assert accelerator_worker.differing(one, other) == {"arrays": 3, "differ": 2, "largest": 7.0}
    assert accelerator_worker.differing([np.zeros(1)], [-np.zeros(1)])["differ"] == 1


def test_packed_drawings_are_opened_where_they_are_laid_out(tmp_path, monkeypatch):
    def drawn(path, part, size):
        image = np.random.default_rng(size).integers(0, 256, (2, size, size, 3), np.uint8)
        texts = (f"{part} grüße", "👨‍🚀")
        return Arrays(image, np.array([1, 0], np.int32), ("faces", "people"), texts, texts, ("1F600", part))

    packed, read = tmp_path / "packed", openmoji.read
    packed.mkdir()
    assert accelerator_data.unpacked(packed, tmp_path / "data") == "" and not (tmp_path / "data").exists()
    monkeypatch.setattr(accelerator_data, "PACKED", packed)
    monkeypatch.setattr(openmoji, "read", drawn)
    accelerator_data.pack_openmoji()
    folder = accelerator_data.unpacked(packed, tmp_path / "data")
    for part in accelerator_data.PARTS:
        for size in accelerator_data.SIZES:
            one, other = vars(read(folder, part, size)), vars(drawn("", part, size))
            assert all(np.array_equal(one.pop(name), other.pop(name)) for name in ("image", "label"))
            assert one == other
