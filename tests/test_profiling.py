"""Traces as text: a GPU's and a TPU's written by hand, a CPU's taken here."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from vqvae_jax import profiling
from vqvae_jax.profiling import Busy, Kernel
from vqvae_jax.types import UserError

STATS = ("hlo_op", "hlo_module", "tf_op", "prefix", "name", "correlation_id", "kernel_details")


def event(name, start, duration, /, **stats):
    """Start and duration in microseconds; names stand in the plane's table."""
    return name, start, duration, stats


def plane(title, **lines):
    """An XPlane as a text proto."""
    names = sorted({one[0] for events in lines.values() for one in events})
    text = f'planes {{ name: "{title}" '
    for number, (line, events) in enumerate(lines.items()):
        text += f'lines {{ id: {number} name: "{line.replace("__", " #")}" timestamp_ns: 1000000 '
        for name, start, duration, stats in events:
            text += f"events {{ metadata_id: {names.index(name) + 1} "
            text += f"offset_ps: {start * 10**6} duration_ps: {duration * 10**6} "
            for key, value in stats.items():
                text += f'stats {{ metadata_id: {STATS.index(key) + 1} str_value: "{value}" }} '
            text += "} "
        text += "} "
    for table, words in (("event", names), ("stat", STATS)):
        for i, word in enumerate(words, 1):
            text += f'{table}_metadata {{ key: {i} value {{ id: {i} name: "{word}" }} }} '
    return text + "} "


def written(folder, *planes):
    """A trace as jax.profiler leaves one."""
    file = folder / "plugins/profile/2026_01_01/host.xplane.pb"
    file.parent.mkdir(parents=True)
    file.write_bytes(ProfileData.text_proto_to_serialized_xspace("".join(planes)))
    return folder


@pytest.fixture
def gpu(tmp_path):
    """Two steps of a convolution, a fusion and a kernel of a CUDA graph; copies beside them on another stream."""
    conv = {"hlo_op": "cudnn-conv.1", "tf_op": "XlaModule:", "prefix": "jit(step)", "name": "net/conv"}
    fusion = {"hlo_op": "fusion.2", "tf_op": "jit(step)/relu"}
    steps = [
        (event("conv", at, 30, **conv), event("fused", at + 30, 10, **fusion), event("in graph", at + 60, 5))
        for at in (0, 100)
    ]
    compute = [one for step in steps for one in step]
    derived = [event("cudnn-conv.1", 0, 200)]
    return written(
        tmp_path,
        plane("/host:CPU", python=[event("PjitFunction", 0, 500)]),
        plane("/device:GPU:10", Stream__7=[event("conv", 0, 999)]),
        plane(
            "/device:GPU:0",
            **{"XLA Ops": derived, "Stream__7(Compute)": compute, "Stream__9(MemcpyH2D)": [event("MemcpyH2D", 20, 20)]},
        ),
    )


def test_kernels_of_a_gpu(gpu):
    conv, fused, copied, in_graph = profiling.heaviest(gpu)
    total = 2 * (30 + 10 + 5) / 1e3  # ms; the copy runs beside the first step
    assert conv == Kernel(
        "conv", "cudnn-conv.1", "jit(step)/net/conv", pytest.approx(0.06), 2, pytest.approx(0.06 / total)
    )
    assert fused[:5] == ("fused", "fusion.2", "jit(step)/relu", pytest.approx(0.02), 2)
    assert copied[:5] == ("MemcpyH2D", "", "", pytest.approx(0.02), 1)
    assert in_graph[:5] == ("in graph", "", "", pytest.approx(0.01), 2)
    assert profiling.busy(gpu) == Busy(pytest.approx(total), pytest.approx(0.165), 7)
    assert [kernel.name for kernel in profiling.heaviest(gpu, 1)] == ["conv"]


def test_the_newest_trace_counts(gpu):
    newer = gpu / "plugins/profile/2026_01_02/host.xplane.pb"
    newer.parent.mkdir()
    newer.write_bytes(ProfileData.text_proto_to_serialized_xspace(plane("/device:GPU:0", Stream__1=[event("a", 0, 1)])))
    assert [kernel.name for kernel in profiling.heaviest(gpu)] == ["a"]


def test_a_loop_of_a_tpu_is_without_its_body(tmp_path):
    ops = [event("%while.1 = f32[] while(x)", 0, 100), event("%fusion.2 = f32[8] fusion(y)", 10, 60)]
    folder = written(tmp_path, plane("/device:TPU:0", **{"XLA Modules": [event("jit_step", 0, 100)], "XLA Ops": ops}))
    assert [(kernel.hlo_op, round(1e3 * kernel.milliseconds)) for kernel in profiling.heaviest(folder)] == [
        ("fusion.2", 60),
        ("while.1", 40),
    ]
    assert profiling.busy(folder) == Busy(pytest.approx(0.1), pytest.approx(0.1), 2)


def test_lines_of_unknown_names_are_taken_all(tmp_path):
    folder = written(tmp_path, plane("/device:GPU:0", one=[event("a", 0, 1)], two=[event("b", 5, 2)]))
    assert [kernel.name for kernel in profiling.heaviest(folder)] == ["b", "a"]


def test_a_table_says_what_a_step_takes(gpu):
    totals, empty, head, *rows = profiling.table(profiling.heaviest(gpu), profiling.busy(gpu), 2).splitlines()
    assert totals == "a step, mean of 2: busy 0.045 ms, span 0.083 ms, 3.5 launches, idle 45.5%"
    assert not empty and head.split() == ["ms", "a", "step", "share", "launches", "kernel", "HLO", "op", "source"]
    assert rows[0].split() == ["0.030", "66.7%", "1", "conv", "cudnn-conv.1", "net/conv"]
    assert {row.index(word) for row, word in zip(rows, ("conv", "fused", "Memcpy", "in graph"), strict=True)} == {
        head.index("kernel")
    }


def test_long_names_are_cut_where_they_say_least():
    kernel = Kernel("void\ncutlass" + "<" * 99, "fusion" * 9, "jit(step)/" + "a/" * 99 + "conv", 1.0, 1, 1.0)
    row = profiling.table([kernel], Busy(1.0, 1.0, 1), 1).splitlines()[-1]
    assert "void cutlass<" in row and row.endswith("/conv") and row.count("…") == 3 and len(row) < 190


def test_a_trace_without_a_device(tmp_path):
    folder = written(tmp_path, plane("/host:CPU", python=[event("PjitFunction", 0, 500)]), plane("/device:GPU:0"))
    assert profiling.heaviest(folder) == [] and profiling.busy(folder) == Busy(0.0, 0.0, 0)
    assert "holds nothing" in profiling.table([], Busy(0.0, 0.0, 0), 5)


def test_a_folder_without_a_trace(tmp_path):
    with pytest.raises(UserError, match="holds no trace"):
        profiling.heaviest(tmp_path)


def test_a_trace_of_this_machine(tmp_path):
    step = jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x), axis=0))
    x = jnp.ones((128, 128))
    step(x).block_until_ready()
    with profiling.traced(tmp_path):
        for _ in range(3):
            step(x).block_until_ready()
    kernels, busy = profiling.heaviest(tmp_path), profiling.busy(tmp_path)
    assert {kernel.times for kernel in kernels} == {3} and busy.launches == 3 * len(kernels)
    assert 0 < busy.milliseconds <= busy.span
    assert any("sort" in kernel.hlo_op for kernel in kernels)
    assert sum(kernel.share for kernel in kernels) >= 0.99


@pytest.mark.parametrize(("text", "steps"), [("", []), ("1:1", [1]), ("100:3", [100, 101, 102])])
def test_a_window_of_steps(text, steps):
    assert list(profiling.window(text)) == steps


@pytest.mark.parametrize("text", ["100", "0:5", "5:0", "-1:5", "a:b", "1:2:3", ":"])
def test_no_window(text):
    with pytest.raises(ValueError):
        profiling.window(text)
