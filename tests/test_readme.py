"""scripts/readme.py figures: the cell of a run, and where it goes."""

import importlib.util
import json
from pathlib import Path

import pytest

from vqvae_jax import config as configs

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

DEMO = "openmoji_hierarchical.py"
METRICS = {  # finest level first, as the file has it
    "autoencoder": {"psnr": 21.249, "ssim": 0.8349, "usage/bottom": 0.996, "usage/top": 0.5},
    "priors": {"top": {"nll_over_position_entropy": 0.619}, "bottom": {"nll_over_position_entropy": 0.3}},
    "bits_per_pixel": 0.128,
}
CELL = (
    "PSNR 21.2 dB, SSIM 0.83, usage 50 % / 100 % (top / bottom); nll 0.62 / 0.30 of the codes' per-position "
    "cross-entropy; 0.13 bits a pixel"
)


@pytest.fixture
def figures(tmp_path, monkeypatch, capsys):
    """`figures` of a run of the demo's config with such metrics; its exit code, what it prints, the page after it."""
    page = tmp_path / "README.md"
    page.write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")

    def run(metrics, *flags, config=f"configs/{DEMO}", overrides=()):
        configs.save(configs.read(config, overrides), tmp_path)
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        monkeypatch.setattr("sys.argv", ["readme.py", "figures", f"--workdir={tmp_path}", f"--page={page}", *flags])
        code = readme.main()
        return code, capsys.readouterr(), page.read_text("utf-8")

    run.page = page
    return run


def cell(text, row):
    """The third of the row."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{row}` |")).split(" | ")[2]


def test_the_cell_of_a_run(figures):
    code, said, page = figures(METRICS)
    assert (code, said.out) == (0, f"{CELL}\n")
    assert page == (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("metrics", "levels", "expected"),
    [
        ({"psnr": 30.06, "ssim": 0.5, "usage/codes": 0.894}, ("codes",), "PSNR 30.1 dB, SSIM 0.50, usage 89 %"),
        ({"psnr": 30.06, "ssim": 0.5}, ("codes",), "PSNR 30.1 dB, SSIM 0.50"),  # numbers in place of codes
        ({"psnr": 30.06, "usage/bottom": 1.0}, ("top", "bottom"), "PSNR 30.1 dB, usage 100 %"),  # on one level
        (
            {"psnr": 9.0, "usage/top.0": 1.0, "usage/top.1": 0.92, "usage/bottom.0": 0.7, "usage/bottom.1": 0.7},
            ("top", "bottom"),
            "PSNR 9.0 dB, usage 92–100 % / 70 % (top / bottom)",
        ),
    ],
)
def test_runs_without_priors(metrics, levels, expected):
    assert readme.measured({"autoencoder": metrics}, levels) == expected


def test_one_level_and_its_prior():
    priors = {"codes": {"nll_over_position_entropy": 0.508}}
    found = readme.measured({**METRICS, "autoencoder": {"psnr": 20.0, "usage/codes": 1.0}, "priors": priors}, ["codes"])
    expected = "PSNR 20.0 dB, usage 100 %; nll 0.51 of the codes' per-position cross-entropy; 0.13 bits a pixel"
    assert found == expected


@pytest.mark.parametrize("prior", [{}, {"nll": 1.0}, {"nll_over_position_entropy": None}])
def test_a_level_without_its_nll_leaves_out_all(prior):
    found = readme.measured({**METRICS, "priors": {**METRICS["priors"], "top": prior}}, ("top", "bottom"))
    assert found == "PSNR 21.2 dB, SSIM 0.83, usage 50 % / 100 % (top / bottom); 0.13 bits a pixel"


def test_what_is_written_is_read_again(figures):
    behind = "; words of a hand (0.02 dB)"
    lines = figures.page.read_text("utf-8").splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if line.startswith(f"| `{DEMO}` |"))
    before = cell(lines[number], DEMO)
    lines[number] = lines[number].replace(before, before + behind)
    figures.page.write_text("".join(lines), "utf-8")
    code, said, page = figures(METRICS, f"--row={DEMO}")
    assert (code, page) == (0, "".join(lines))
    assert said.out == f"{CELL}\nwas: {before}{behind}\nnow: {CELL}{behind}\n"
    code, _, page = figures(METRICS, f"--row={DEMO}", "--write")
    lines[number] = lines[number].replace(before, CELL)
    assert (code, page) == (0, "".join(lines))
    code, said, page = figures(METRICS, f"--row={DEMO}", "--write")
    assert (code, said.out, page) == (0, f"{CELL}\n{DEMO}: as it stands there\n", "".join(lines))


@pytest.mark.parametrize(
    "old",
    [
        "autoencoder alone: PSNR 20.3 dB, SSIM 0.83, usage 89 % / 96 %",
        "test mse 0.0089, PSNR 21.1 dB",
        "traced at full size; never trained",
        "PSNR 25.7 dB, SSIM 0.85, usage 100 % at each depth; nll 4.87 = 0.91",
        "PSNR 20.8 dB, usage 100 %, nll 1.39 nats a token = 0.51 of the per-position cross-entropy",
        "PSNR 22.7 dB; on all of the set PSNR 23 dB",
        "",
    ],
)
def test_other_cells_are_left_to_a_hand(figures, old):
    text = figures.page.read_text("utf-8")
    before = text.replace(cell(text, DEMO), old)
    figures.page.write_text(before, "utf-8")
    code, said, page = figures(METRICS, f"--row={DEMO}", "--write")
    assert (code, said.out, page) == (2, f"{CELL}\n", before)
    assert said.err.count("\n") == 1 and "by hand" in said.err


@pytest.mark.parametrize(
    ("flags", "overrides", "word"),
    [
        (["--write"], [], "--row="),
        (["--row=openmoji_hierarchcal.py", "--write"], [], "did you mean 'openmoji_hierarchical.py'?"),
        ([f"--row={DEMO}:fsq", "--write"], [], "config.autoencoder.quantizer.name is 'ema', there 'fsq'"),
        ([f"--row={DEMO}", "--write"], ["--config.train.steps=10"], "config.train.steps is 10, there "),
    ],
)
def test_another_row_is_refused(figures, flags, overrides, word):
    code, said, page = figures(METRICS, *flags, overrides=overrides)
    assert code == 2 and word in said.err and said.err.count("\n") == 1
    assert page == (ROOT / "README.md").read_text("utf-8")


def test_where_the_data_lie_and_what_is_logged_may_differ(figures):
    overrides = ["--config.dataset.path=x", "--config.priors.top.train.keep=5", "--config.sample.count=4"]
    code, _, page = figures(METRICS, f"--row={DEMO}", "--write", overrides=overrides)
    assert code == 0 and cell(page, DEMO) == CELL


def test_a_run_without_an_autoencoder_or_metrics(figures, tmp_path, monkeypatch, capsys):
    code, said, _ = figures({"priors": METRICS["priors"]})
    assert code == 2 and "no PSNR" in said.err
    (tmp_path / "metrics.json").write_text("{")
    assert readme.main() == 2 and "is damaged" in capsys.readouterr().err
    (tmp_path / "metrics.json").unlink()
    assert readme.main() == 2 and f"evaluate --workdir={tmp_path}" in capsys.readouterr().err


def test_a_run_of_numbers_in_place_of_codes(figures):
    code, said, _ = figures({"autoencoder": {"psnr": 27.84, "ssim": 0.951}}, config="configs/openmoji_kl.py")
    assert (code, said.out) == (0, "PSNR 27.8 dB, SSIM 0.95\n")
