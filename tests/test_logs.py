"""What a training tells: protects metrics across interruptions, and the pixels of the grids."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from vqvae_jax import logs, progress
from vqvae_jax.logs import Log, grid, read_metrics, save_png, strip
from vqvae_jax.types import UserError


def run(folder, steps, start=0):
    with Log(folder, total_steps=10, start_step=start, name="autoencoder") as log:
        for step in steps:
            log.metrics(step, {"loss": float(step)})


def test_metrics_are_json_lines(tmp_path):
    with Log(tmp_path, 10, 0, "autoencoder") as log:
        log.metrics(1, {"loss": jnp.float32(0.5), "usage": np.int64(3)})
        log.metrics(1, {"psnr": jnp.bfloat16(2)}, prefix="eval")
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first == {"step": 1, "time": first["time"], "train/loss": 0.5, "train/usage": 3.0}
    assert second["eval/psnr"] == 2.0


def test_nan_and_infinity_stay_valid_json(tmp_path):
    """Python writes NaN, which no other JSON reader takes."""
    with Log(tmp_path, 10, 0, "autoencoder") as log:
        log.metrics(1, {"a": float("nan"), "b": jnp.inf})

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line["train/a"] is None and line["train/b"] is None


def test_a_vector_is_refused_by_name(tmp_path):
    with Log(tmp_path, 10, 0, "autoencoder") as log, pytest.raises(UserError, match="'counts' is no scalar"):
        log.metrics(1, {"counts": np.zeros(3)})


def test_resuming_logs_no_step_twice(tmp_path):
    """A run killed at step 5 that goes on from its checkpoint at step 3 logs 4 and 5 anew."""
    run(tmp_path, [1, 2, 3, 4, 5])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "tr')  # killed in the middle of a line
    run(tmp_path, [4, 5, 6], start=3)
    assert [entry["step"] for entry in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_starting_over_begins_a_new_file(tmp_path):
    """No checkpoint was reached: nothing of the interrupted run stays, step 0 included."""
    run(tmp_path, [0, 1, 2])
    run(tmp_path, [0, 1])
    assert [entry["step"] for entry in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_lines_are_there_before_the_log_is_closed(tmp_path):
    """A killed run leaves what it logged."""
    log = Log(tmp_path, 10, 0, "autoencoder")
    log.metrics(1, {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    pytest.importorskip("tensorboardX")
    with Log(tmp_path, 10, 0, "autoencoder") as log:
        log.metrics(1, {"loss": 1.0})
        log.pictures(1, "reconstruction", np.zeros((4, 4, 3), np.uint8))
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes() and b"\x89PNG" in events.read_bytes()


def test_without_tensorboard_it_says_so_once_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(logs, "_said", set())
    run(tmp_path / "a", [1])
    with Log(tmp_path / "b", 10, 0, "prior") as log:
        log.pictures(1, "samples", np.zeros((4, 4, 3), np.uint8))
    assert capsys.readouterr().err.count("pip install tensorboardX") == 1
    assert not (tmp_path / "b" / "tensorboard").exists()


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    """Many hosts share one folder."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Log(tmp_path, 10, 0, "autoencoder") as log:
        log.metrics(1, {"loss": 1.0})
        log.pictures(1, "samples", np.zeros((4, 4, 3), np.uint8))
        log.progress(10, "loss 1")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def test_progress_without_a_terminal_is_rare_plain_lines(tmp_path, monkeypatch, capsys):
    """One step every 2 s: lines at once, every 10 s, and at the end; the first step, which compiles, slows no rate."""
    now = iter(range(100, 300, 2))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    with Log(tmp_path, 12, 0, "autoencoder") as log:
        for step in range(1, 13):
            log.progress(step, f"loss {step}")
    assert capsys.readouterr().err.splitlines() == [
        "autoencoder 1/12  loss 1",
        "autoencoder 6/12  0.5 steps/s  0:00:12 left  loss 6",
        "autoencoder 11/12  0.5 steps/s  0:00:02 left  loss 11",
        "autoencoder 12/12  0.5 steps/s  0:00:00 left  loss 12",
    ]


def test_progress_on_a_terminal_is_a_bar(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Log(tmp_path, 10, 4, "autoencoder") as log:
        log.progress(10, "loss 1")
    shown = capsys.readouterr().err
    assert "autoencoder" in shown and "4/10" in shown and "10/10" in shown and "loss 1" in shown


def test_grid_places_every_pixel():
    """Three pictures of one colour each in two columns: separators between, grey where there is none."""
    images = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    page = grid(images, columns=2)
    assert page.shape == (2 + 2 + 2, 3 + 2 + 3, 3) and page.dtype == np.uint8
    row = [10] * 3 + [200] * 2 + [20] * 3
    np.testing.assert_array_equal(page[..., 0], [row, row, [200] * 8, [200] * 8, *[[30] * 3 + [200] * 5] * 2])


def test_grid_enlarges_by_repeating_pixels():
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(grid(image, columns=1, scale=2), np.stack([expected] * 3, axis=-1))


def test_grid_takes_lists_and_rows():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    expected = grid(images, columns=3)
    np.testing.assert_array_equal(grid(list(images), columns=3), expected)
    np.testing.assert_array_equal(grid([images[:3], images[3:]], columns=3), expected)


def test_strip_stacks_versions_grey_beside_colour():
    top = np.full((4, 2, 2, 1), 7, np.uint8)
    bottom = np.full((4, 2, 2, 3), 9, np.uint8)
    np.testing.assert_array_equal(strip([top, bottom], scale=3)[:6], grid(top, columns=4, scale=3))
    np.testing.assert_array_equal(strip([top, bottom], scale=3)[8:], grid(bottom, columns=4, scale=3))


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_pictures_of_another_kind_are_refused(images):
    """Floats in [0, 1] cast to uint8 would be black."""
    with pytest.raises(UserError, match="uint8"):
        grid(images, columns=2)


def test_strip_refuses_rows_of_different_size():
    with pytest.raises(UserError, match="one shape"):
        strip([np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 4, 4, 3), np.uint8)])


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 1), (4, 5)])
def test_png_keeps_every_pixel_and_leaves_nothing_else(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    save_png(tmp_path / "new" / "a.png", array)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "new" / "a.png")), array.squeeze())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_pictures_carry_their_step(tmp_path):
    with Log(tmp_path, 10, 0, "autoencoder") as log:
        log.pictures(12, "samples", np.zeros((4, 4, 3), np.uint8))
    assert (tmp_path / "pictures" / "samples_0000012.png").is_file()
