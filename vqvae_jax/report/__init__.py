"""A run on one page: DIR/report.html, its pictures and curves inside, to be opened, kept or sent.

    config.json, data.json, metrics.json, code_counts.npz, *.png, STAGE/metrics.jsonl ──► contents ──► report.html

With the workdirs of other seeds, means and deviations over all of them stand beside the run's own numbers.

What is not there yet is named and left out. Needs jinja2 and matplotlib, which nothing else does.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax import evaluate, logs
from vqvae_jax.doctor import Doctor
from vqvae_jax.files import atomically, check_file
from vqvae_jax.report import samples, seeds
from vqvae_jax.report.curves import by_map, codes, health, stage
from vqvae_jax.report.libraries import imported
from vqvae_jax.report.pictures import captions, code_map_captions, picture
from vqvae_jax.report.words import about, cards, commands, facts, meaning, metrics_of, number, with_priors

FILE = "report.html"


def write(workdir: Path, others: Sequence[Path] = ()) -> Path:
    """Writes DIR/report.html, whole or not at all.

    Args:
        workdir: of a run, finished or not.
        others: workdirs of the same config under other seeds.

    Returns:
        The page's path.

    Raises:
        UserError: no workdir, a damaged file in it, one of another config, or jinja2 or matplotlib is not installed.
    """
    path = Path(workdir) / FILE
    check_file("", path)
    jinja2 = imported("jinja2")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = resources.files("vqvae_jax.report").joinpath("page.html.jinja").read_text("utf-8")
    page = environment.from_string(text).render(contents(Path(workdir), others))
    with atomically(path) as temporary:
        temporary.write_text(page, "utf-8")
    return path


def contents(workdir: Path, others: Sequence[Path] = ()) -> dict[str, Any]:
    """All that the page says, by the names that the template uses."""
    config, metrics = configs.load(workdir), metrics_of(workdir / evaluate.FILE)
    of_seeds = seeds.read(workdir, others)
    measured, of_samples = metrics.get("priors", {}), samples.read(workdir)
    entries = {name: logs.read_metrics(workdir / name / "metrics.jsonl") for name in configs.stages(config)}
    return {
        "name": workdir.resolve().name,
        "about": about(config),
        "cards": list(cards(metrics, configs.levels(config))),
        "strip": picture(workdir, "reconstructions", ["autoencoder"]),
        "captions": captions(metrics, entries.get("autoencoder", []), configs.levels(config)),
        "samples": picture(workdir, "samples", [*reversed(with_priors(config))]),
        "told": samples.told(of_samples),
        "nearest": picture(workdir, samples.STRIP, []) if of_samples else None,
        "nearest_captions": samples.captions(of_samples),
        "nearest_note": samples.sentence(of_samples["nearest"]) if of_samples else "",
        "code_maps": picture(workdir, evaluate.CODE_MAPS, []),
        "code_map_captions": code_map_captions(metrics, configs.levels(config)),
        "stages": [stage(name, entries[name], config, measured.get(name, {}), of_seeds) for name in entries],
        "strips": {name: picture(workdir, "denoising", [name]) for name in with_priors(config)},
        "codes": list(codes(workdir / evaluate.COUNTS, configs.levels(config))),
        "health": list(by_map(workdir / evaluate.COUNTS, configs.levels(config)))
        + list(health(workdir / evaluate.COUNTS, configs.levels(config))),
        "counted": (workdir / evaluate.COUNTS).is_file(),
        "illnesses": [one.remark for one in Doctor(entries.get("autoencoder", [])).present()],
        "metrics": [
            (name, number(value), over_seeds(of_seeds.spread(name, value)), meaning(name))
            for name, value in evaluate.flat(metrics)
        ],
        "seeds": of_seeds.names,
        "config": config,
        "facts": facts(workdir),
        "commands": commands(config, workdir),
    }


def over_seeds(spread: seeds.Spread | None) -> str:
    """`24.91 ± 0.06`; "" for none."""
    return f"{number(spread.mean)} ± {number(spread.deviation, '.2g')}" if spread else ""
