"""The page of a run: whole, self-contained, true to its files; and what it says of a run that is not finished."""

import base64
import dataclasses
import html
import io
import json
import re
import sys

import numpy as np
import PIL.Image
import pytest

from vqvae_jax import config as configs
from vqvae_jax import logs, report
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.report.panels import TERMS
from vqvae_jax.types import UserError

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

METRICS = {
    "split": "test",
    "images": 12,
    "autoencoder": {
        "mse": 0.00895810,
        "psnr": 21.141999,
        "ssim": None,  # of pictures below 11 pixels
        "usage/bottom": 0.75,
        "perplexity/bottom": 88.0184,
        "usage/top": 1.0,
        "perplexity/top": 139.806,
    },
    "priors": {
        "top": {"nll": 2.092, "position_entropy": 3.673, "nll_over_position_entropy": 0.5695, "bits_per_pixel": 0.04},
        "bottom": {"nll": 1.043, "position_entropy": 3.276, "nll_over_position_entropy": 0.3184, "bits_per_pixel": 0.1},
    },
    "bits_per_pixel": 0.14121,
}
STEP = {"train/loss": 2.0, "train/batch_usage/top": 0.5, "train/batch_perplexity/top": 7.0, "train/nll": 2.5}
HELD_OUT = {"held_out/loss": 0.1, "held_out/psnr": 20.0, "held_out/usage/top": 0.6, "held_out/nll": 2.0}
HELD_OUT |= {"held_out/perplexity/top": 8.0, "held_out/position_entropy": 3.5}


def test_every_term_of_a_quantizer_has_a_plot():
    """What it says of itself; a term that the report does not know is left out of the page."""
    for kind in QUANTIZERS.values():
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        assert set(kind.terms(defaults) if hasattr(kind, "terms") else {}) <= set(TERMS), kind


def begun(workdir, priors=True, **dataset):
    """A workdir with its config and nothing else."""
    train = {"steps": 640}
    written = {
        "dataset": {"name": "cifar10", "path": "x", **dataset},
        "autoencoder": {"name": "hierarchical", "levels": 2, "quantizer": {"name": "ema", "codebook_size": 256}},
        "loss_weights": {"commitment": 0.25},
        "train": train,
        "priors": {name: {"name": "pixelcnn", "train": train} for name in ("top", "bottom")} if priors else {},
    }
    configs.save(configs.complete(written), workdir)
    return workdir


def finished(workdir):
    """All that a run leaves and the page shows."""
    begun(workdir)
    facts = {"image_size": 64, "channels": 3, "train_images": 1597, "label_names": ["cat", "dog"]}
    (workdir / "data.json").write_text(json.dumps(facts | {"label_counts": [1000, 597]}))
    (workdir / "metrics.json").write_text(json.dumps(METRICS))
    for name in ("reconstructions", "samples"):
        logs.save_png(workdir / f"{name}.png", np.zeros((8, 20, 3), np.uint8))
    for name in ("autoencoder", "top", "bottom"):
        logged(workdir, name, [(50, STEP), (100, STEP), (100, HELD_OUT)])
    np.savez(workdir / "code_counts.npz", top=np.array([3, 0, 1, 0]), bottom=np.array([2, 2]))
    return workdir


def logged(workdir, stage, lines):
    (workdir / stage).mkdir(exist_ok=True)
    text = "".join(logs.metrics_line(step, scalars) for step, scalars in lines)
    (workdir / stage / "metrics.jsonl").write_text(text)


def page(workdir):
    return report.write(workdir).read_text("utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run whose page is written: (workdir, page)."""
    workdir = finished(tmp_path_factory.mktemp("whole"))
    return workdir, page(workdir)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without plots, which take most of the time."""
    monkeypatch.setattr(report.curves, "svg", lambda draw, title: title)


def text(part):
    """What a reader sees of a piece of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", part)).strip()


def test_the_page_is_alone_in_its_file(whole):
    """No picture, style or script from elsewhere; every reference is a data URI or inside the page."""
    workdir, made = whole
    references = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", made)
    assert len([one for one in references if one.startswith("data:image/png;base64,")]) == 2
    assert all(one.startswith(("data:image/png;base64,", "#")) for one in references)
    assert not re.search(r"@import|<script|<link|<iframe|url\((?!#)", made)
    assert {one.name for one in workdir.glob("*report*")} == {"report.html"}


def test_every_inside_reference_has_its_target(whole):
    made = whole[1]
    wanted = set(re.findall(r'href="#([^"]+)"', made)) | set(re.findall(r"url\(#([^)]+)\)", made))
    assert wanted and wanted <= set(re.findall(r'id="([^"]+)"', made))


def test_the_same_run_gives_the_same_bytes(whole):
    workdir, made = whole
    assert page(workdir) == made


def test_pictures_are_the_workdirs(tmp_path, undrawn):
    begun(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    logs.save_png(tmp_path / "reconstructions.png", pixels)
    uri = re.search(r'src="data:image/png;base64,([^"]+)" width="7" height="9"', page(tmp_path))
    assert uri is not None
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(base64.b64decode(uri[1]))), pixels)


def test_the_table_says_what_metrics_json_says(whole):
    rows = re.findall(r"<tr><td>(.*?)</td><td class=\"number\">(.*?)</td>", whole[1])
    shown = {text(name): value for name, value in rows}

    def compare(values, path):
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, f"{path}{name}/")
            elif isinstance(value, float):
                assert float(shown[path + name]) == pytest.approx(value, rel=1e-5)
            else:
                assert shown[path + name] == ("–" if value is None else str(value))

    compare(METRICS, "")


def test_the_headline(whole):
    cards = re.search(r'<dl class="cards">(.*?)</dl>', whole[1], re.S)
    assert cards is not None
    found = re.findall(r'<dt>(.*?)</dt><dd class="value">(.*?)</dd>', cards[1])
    assert found == [
        ("PSNR", "21.14 dB"),
        ("SSIM", "–"),
        ("Codes used, top", "100.0%"),
        ("Codes used, bottom", "75.0%"),
        ("nll / position entropy, top", "0.570"),
        ("nll / position entropy, bottom", "0.318"),
        ("Bits a pixel", "0.141"),
    ]


def test_each_stage_has_its_curves(whole):
    made = whole[1]
    drawn = re.findall(r'<svg role="img" aria-label="([^"]*)"', made)
    panels = ["Loss", "Held-out error", "PSNR", "Perplexity in a batch", "Perplexity, held out"]
    panels += [f"Share of codes used{where}" for where in (" in a batch", ", held out")]
    assert drawn[:7] == [f"{title} over training" for title in panels]
    assert drawn[7:] == ["nll over training"] * 2 + ["Use of each code, top", "Use of each code, bottom"]
    assert made.count("position entropy</text>") == 2
    assert "step 100 of 640" in made


def test_codes_are_counted(whole):
    """Of four codes one is used three times, another once: exp of the entropy of 3/4 and 1/4."""
    found = text(whole[1])
    assert f"usage 50.0% of 4 codes, perplexity {4 / 3**0.75:.1f}, most used 75.0%" in found
    assert "usage 100.0% of 2 codes, perplexity 2.0, most used 50.0%" in found


def test_config_facts_and_commands_are_there(whole):
    workdir, made = whole[0], text(whole[1])
    for said in (
        "codebook_size 256",
        "cat",
        "597",
        f"python launch.py --config={workdir}/config.json --workdir=runs/again",
    ):
        assert said in " ".join(made.split())
    assert f"python -m vqvae_jax sample --workdir={workdir}" in made
    assert f"python -m vqvae_jax evaluate --workdir={workdir}" in made
    assert "2 levels × 256 codes" in made


def test_a_run_that_just_began(tmp_path):
    """Only config.json: the page says what is missing."""
    made = page(begun(tmp_path))
    missing = [text(one) for one in re.findall(r'<p class="missing">(.*?)</p>', made)]
    assert [one.split()[1].strip(":.") for one in missing] == [
        "metrics.json",
        "reconstructions.png",
        "samples.png",
        "code_counts.npz",
        "metrics.json",
        "data.json",
    ]
    assert made.count("nothing logged yet") == 3 and "<svg" not in made and "<img" not in made
    assert f"python launch.py --config={tmp_path}/config.json" in made


def test_maps_of_numbers_have_no_codes(tmp_path):
    """The file is there, and holds nothing."""
    np.savez(begun(tmp_path) / "code_counts.npz")
    made = page(tmp_path)
    assert "The maps hold numbers, so there are no codes." in made and "No code_counts.npz" not in made


def test_each_illness_in_its_words(tmp_path, undrawn):
    """Of a level a collapse, of a critic a sentence."""
    begun(tmp_path)
    ill = {"train/recent_usage/top": 0.1, "train/critic_right": 0.5, "train/adversarial": 1.0}
    logged(tmp_path, "autoencoder", [(step, ill) for step in range(200, 600, 50)])
    said = [text(one) for one in re.findall(r'<p class="ill">(.*?)</p>', page(tmp_path))]
    assert [one.partition(",")[0] for one in said] == [
        "Collapse of top: only 10% of its codes were used in 100 steps",
        "The critic is at chance",
    ]


@pytest.mark.parametrize(
    "name", ["data.json", "metrics.json", "reconstructions.png", "samples.png", "code_counts.npz", "top/metrics.jsonl"]
)
def test_every_part_may_be_missing(tmp_path, undrawn, name):
    before = page(finished(tmp_path))
    (tmp_path / name).unlink()
    assert 0 < len(page(tmp_path)) < len(before)


def test_an_autoencoder_alone(tmp_path):
    made = page(begun(tmp_path, priors=False))
    assert "no priors, so nothing is sampled" in made and "vqvae_jax sample" not in made


def test_priors_alone(tmp_path):
    """Data that are tokens need no autoencoder."""
    begun(tmp_path, name="tokens")
    logged(tmp_path, "top", [(1, STEP)])
    (tmp_path / "metrics.json").write_text(json.dumps({name: METRICS[name] for name in ("split", "images", "priors")}))
    made = page(tmp_path)
    assert "<h3>autoencoder" not in made and "nll over training" in made and "PSNR" not in made


@pytest.mark.parametrize("lines", [[], [(0, {"train/loss": float("nan")})], [(1, STEP)], [(1, {"other": 1.0})]])
def test_short_logs(tmp_path, lines):
    """Empty, all NaN, a single point, nothing that is drawn; a dead run is where one looks."""
    begun(tmp_path)
    logged(tmp_path, "autoencoder", lines)
    logged(tmp_path, "top", lines)
    assert ("<svg" in page(tmp_path)) == (lines == [(1, STEP)])


def test_before_the_end_the_last_pictures_of_training(tmp_path):
    begun(tmp_path)
    for step, width in ((320, 5), (640, 6)):
        path = tmp_path / "autoencoder" / "pictures" / f"levels_{step:07d}.png"
        logs.save_png(path, np.zeros((4, width, 3), np.uint8))
    made = page(tmp_path)
    assert "drawn while training autoencoder, at step 640" in made and 'width="6"' in made


def test_long_logs_and_large_pictures_stay_small(tmp_path, monkeypatch):
    """50,000 lines are thinned out, of codebooks too; a picture above the limit is halved until it is below."""
    finished(tmp_path)
    logged(tmp_path, "autoencoder", [(i, {"train/loss": float(i % 7 + 1)}) for i in range(1, 50_001)])
    np.savez(tmp_path / "code_counts.npz", top=np.arange(16_384))
    monkeypatch.setattr(report.pictures, "PICTURE", 10_000)
    noise = np.random.default_rng(0).integers(0, 256, (200, 400, 3), np.uint8)
    logs.save_png(tmp_path / "samples.png", noise)
    made = page(tmp_path)
    assert 'width="50" height="25"' in made and "shown smaller" in made
    assert len(made) < 300_000


@pytest.mark.parametrize("kept", [0.9, 0.0], ids=["cut off", "no picture"])
def test_a_large_picture_that_is_damaged_is_left_out(tmp_path, monkeypatch, kept):
    finished(tmp_path)
    monkeypatch.setattr(report.pictures, "PICTURE", 10_000)
    logs.save_png(path := tmp_path / "samples.png", np.random.default_rng(0).integers(0, 256, (200, 400, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))] or bytes(20_000))
    assert 'width="400"' not in (made := page(tmp_path)) and "shown smaller" not in made


def test_values_are_escaped(tmp_path, undrawn):
    hostile = "<script>alert('1')</script>&\"$x_1$"
    finished(begun(tmp_path))
    begun(tmp_path, path=hostile, split=hostile)
    metrics = {**METRICS, "split": hostile, hostile: 1.0}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    facts = {hostile: 1, "image_size": 8, "channels": 3, "label_names": [hostile], "label_counts": [3]}
    (tmp_path / "data.json").write_text(json.dumps(facts))
    np.savez(tmp_path / "code_counts.npz", **{"top": np.ones(3, int), "<script>": np.ones(3, int)})
    made = page(tmp_path)
    assert "<script" not in made and "alert('1')" not in made
    assert text(made).count(hostile) >= 5


def of_term(step, commitment, reconstruction, weight=0.25):
    total = reconstruction + weight * commitment
    return (step, {"train/loss": total, "train/reconstruction": reconstruction, "train/commitment/top": commitment})


def test_terms_stand_apart_with_their_weights(tmp_path, undrawn):
    """The sum rises while the reconstruction falls: which term it was is said, and only then."""
    begun(tmp_path)
    logged(tmp_path, "autoencoder", [of_term(i, 0.1 * i, 1 / i) for i in range(1, 40)])
    made = " ".join(text(page(tmp_path)).split())
    assert "reconstruction how far pictures are from the images; weight 0" in made
    assert "commitment how far the encoder is from its codes; moves the encoder; weight 0.25" in made
    assert re.search(
        r"The sum rose from 0.\d+ to 0.9\d* while the reconstruction fell from .* is commitment/top, which is", made
    )
    logged(tmp_path, "autoencoder", [of_term(i, 0.1, 1 / i) for i in range(1, 40)])
    assert "The sum rose" not in page(tmp_path)


def test_one_quantity_an_axis():
    """MaskGIT's loss in training is of hidden tokens, held out it is the bound; a batch's usage is not a split's."""
    panels = report.panels.prior_panels([{"step": 1, "train/loss": 2.0, "train/masked": 2.0, "held_out/nll": 3.0}])
    by_title = {panel.title: [line.metric for line in panel.lines] for panel in panels}
    assert by_title["Loss"] == ["train/loss"] and "held_out/nll" in by_title["nll"]
    used = {f"{kind}/top": 1.0 for kind in ("train/batch_usage", "held_out/usage", "train/loss", "held_out/loss")}
    for panel in report.panels.autoencoder_panels([used], ("top",), {}):
        assert len({line.metric.rpartition("/")[0] for line in panel.lines if "/top" in line.metric}) <= 1
        assert not {"train/loss", "held_out/loss"} <= {line.metric for line in panel.lines}


def test_a_level_of_many_maps(tmp_path):
    """Ten scales: one card, shades between two colours, a bar each; what is logged of the level is no map."""
    begun(tmp_path)
    names = [f"top.{i}" for i in range(10)]
    autoencoder = {"psnr": 20.0, **{f"usage/{name}": 0.1 * (i + 1) for i, name in enumerate(names)}}
    (tmp_path / "metrics.json").write_text(json.dumps({"split": "test", "images": 12, "autoencoder": autoencoder}))
    steps = {f"train/batch_usage/{name}": 0.5 for name in names} | {"train/recent_usage/top": 1.0}
    logged(tmp_path, "autoencoder", [(1, steps), (2, steps)])
    np.savez(tmp_path / "code_counts.npz", **{name: np.array([1, 0, 1, 1]) for name in names})
    for name in ("reconstructions", "code_maps"):
        logs.save_png(tmp_path / f"{name}.png", np.zeros((11, 4, 3), np.uint8))
    made = page(tmp_path)
    cards = re.findall(r'<dt>(.*?)</dt><dd class="value">(.*?)</dd><dd class="small">(.*?)</dd>', made)
    assert ("Codes used, top", "55.0%", "mean of 10 maps; least 10.0%, top.0") in cards and len(cards) == 2
    rows = [text(rows).split() for rows in re.findall(r'<div class="rows">(.*?)</div>', made.replace("</span>", " "))]
    assert len(rows) == 2 and rows[1] == ["image", *names]
    assert "share of codes used, map by map" in made and made.count("usage 75.0% of 4 codes") == 10
    labels = [label for _, label, _ in report.panels.coloured(names)]
    assert labels == ["top.0", *[""] * 8, "top.9"] and len({c for *_, c in report.panels.coloured(names)}) == 10


NEAREST = {"rms": [3.0, 40.0], "name": ["cat", "<dog>"], "compared": 90, "images": 90}
NEAREST |= {"held_out": {"median": 60.0, "least": 20.0, "count": 5}}


def test_samples_are_told_and_compared(tmp_path, undrawn):
    """Each sample's label over it, the nearest training image and what is usual; damage is named."""
    finished(tmp_path)
    logs.save_png(tmp_path / "nearest.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "samples.json").write_text(json.dumps({"told": ["flags", "<food>"], "nearest": NEAREST}))
    made = page(tmp_path)
    assert "grid-template: repeat(2, 1fr) / repeat(1, 1fr)" in made
    assert '<span title="flags">flags</span><span title="&lt;food&gt;">' in made
    assert '<span title="cat">3</span><span title="&lt;dog&gt;">40</span>' in made
    assert "1 of 2 are so near that they look like copies" in made and "(90)" in made
    (tmp_path / "samples.json").write_text(json.dumps({"told": [], "nearest": {"rms": []}}))
    with pytest.raises(UserError, match=r"samples.json is damaged"):
        report.write(tmp_path)
    (tmp_path / "samples.png").unlink()
    assert "training images?" not in page(tmp_path)


def test_distances_have_their_errors(tmp_path, undrawn):
    finished(tmp_path)
    measured = {"fd_mobilenet_v2": 2.5, "fd_mobilenet_v2_spread": 0.31, "count": 500, "floor": {"fd_mobilenet_v2": 0.2}}
    (tmp_path / "metrics.json").write_text(json.dumps({**METRICS, "distances": {"samples": measured}}))
    assert "± 0.3; 500, mobilenet_v2; real images 0.2" in text(page(tmp_path))


def test_rows_are_named_coarse_to_fine():
    levels = ("top", "middle", "bottom")
    assert report.captions({}, [], levels) == ["original", "top only", "+ middle", "all"]
    assert report.captions({}, [], ("bottom",)) == ["original", "decoded"]
    numbers_above = {"autoencoder": {"usage/bottom": 0.5}}  # a top of numbers, of which no usage is known
    assert report.captions(numbers_above, [], ["top", "bottom"]) == ["original", "top only", "all"]
    measured = {"autoencoder": dict.fromkeys(["usage/bottom", "usage/top.0", "usage/top.1", "psnr"], 1.0)}
    assert report.captions(measured, [], ("top", "bottom")) == ["original", "top.0 only", "+ top.1", "all"]


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, name):
    finished(tmp_path)
    for module in [one for one in sys.modules if one.split(".")[0] == name]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"needs {name}.*pip install jinja2 matplotlib"):
        report.write(tmp_path)
    assert not list(tmp_path.glob("*report*"))


def test_what_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="train first"):
        report.write(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "data.json"])
def test_damaged_files_are_named_and_the_old_page_stays(tmp_path, undrawn, name):
    before = page(finished(tmp_path))
    (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        report.write(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == before


def another_seed(workdir, seed, psnr, **changes):
    """A copy of `finished` under another seed, with another PSNR at the end and in training."""
    finished(workdir)
    config = configs.load(workdir) | {"seed": seed} | changes
    (workdir / "config.json").write_text(json.dumps(config))
    measured = METRICS | {"autoencoder": METRICS["autoencoder"] | {"psnr": psnr}}
    (workdir / "metrics.json").write_text(json.dumps(measured))
    logged(workdir, "autoencoder", [(50, STEP), (100, HELD_OUT | {"held_out/psnr": psnr})])
    return workdir


def test_over_seeds_a_metric_has_its_mean_and_deviation(tmp_path, monkeypatch):
    """By hand: 21.141999, 22 and 23 have mean 22.047, deviation 0.930 with n - 1. A run is no other seed of itself."""
    run, *others = [another_seed(tmp_path / str(i), i, psnr) for i, psnr in enumerate((21.141999, 22.0, 23.0))]
    drawn = []
    monkeypatch.setattr(report.curves, "error_bars", lambda axes, spreads, colour: drawn.extend(spreads))
    made = text(report.write(run, [run, *others]).read_text("utf-8"))
    assert "22.0473 ± 0.93" in made and "3 seeds: this run, 1, 2" in made
    ((step, spread),) = [one for one in drawn if one[1].deviation > 1e-6]
    assert step == 100 and spread == pytest.approx((22.047333, 0.929904), rel=1e-6)
    assert "±" not in text(report.write(run, [run]).read_text("utf-8"))


def test_error_bars_are_drawn(tmp_path):
    """A bar and its two caps are paths of the picture."""
    run, other = (another_seed(tmp_path / str(i), i, 20.0 + i) for i in range(2))
    plain = page(run)
    assert report.write(run, [other]).read_text("utf-8").count("<path") > plain.count("<path")


def test_runs_of_another_config_are_no_seeds(tmp_path):
    run = another_seed(tmp_path / "run", 0, 21.0)
    second = another_seed(tmp_path / "second", 1, 21.0)
    for others, seed in (
        ([another_seed(tmp_path / "twin", 0, 21.0)], 0),
        ([second, another_seed(tmp_path / "t", 1, 20.0)], 1),
    ):
        with pytest.raises(
            UserError, match=rf"same seed as \S+, {seed}; train it with another, --config\.seed={seed + 1}"
        ):
            report.write(run, others)
    more = another_seed(tmp_path / "more", 2, 20.0)
    measured = json.loads((more / "metrics.json").read_text())
    for one, count in ((run, 500), (more, 5000)):
        samples = {"samples": {"fd_mobilenet_v2": 3.0, "count": count}}
        (one / "metrics.json").write_text(json.dumps(measured | {"distances": samples}))
    with pytest.raises(UserError, match=r"distances/samples/count of \S+more is 5000, of this run 500"):
        report.write(run, [more])
    weights = {"loss_weights": {"commitment": 1.0}}
    with pytest.raises(UserError, match=r"config\.loss_weights\.commitment: 0\.25 → 1\.0"):
        report.write(run, [another_seed(tmp_path / "other", 1, 21.0, **weights)])
