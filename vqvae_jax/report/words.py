"""What the page says in words and numbers."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.files import read_json
from vqvae_jax.types import UserError

LABELS = 60  # of the data, listed at most
FEW = 4  # maps of a level that have a card each

MEANINGS = {
    "images": "in the split",
    "mse": "in the units of dataset.range",
    "mse_over_time": "of what a diffusion prior foretells, over times evenly; 0 data, 1 noise",
    "mse_at": "the same in a bin of times",
    "psnr": "dB, mean over images",
    "ssim": "1 is equal, mean over images",
    "sharpness": "variance of the Laplacian, over that of the images; 1 is equal, blur has less",
    "usage": "share of the codes that the split uses",
    "perplexity": "codes, as if all were used equally",
    "nll": "nats a token",
    "text": "nats a place of a text, of its words",
    "with_another_text": "the nll, or the loss, under another image's text; no higher, and the text is not heard",
    "entropy": "nats a token, from how often each code is used",
    "position_entropy": "nats a token, from how often the training images use each code at that position",
    "nll_over_position_entropy": "below 1 the prior knows more than the counts at each position",
    "bits_per_pixel": "bits of all tokens / pixels",
    "lpips": "LPIPS v0.1 of VGG16, mean over images; 0 is equal",
    "count": "pictures that were measured, at random",
    "reference": "training images that they are measured against",
    "precision": "share of the pictures among the neighbours of training images",
    "recall": "share of the training images among the neighbours of pictures",
}
NETS = ("mobilenet_v2", "efficientnet_lite0")  # that distances are taken in
FRECHET, KERNEL = (tuple(f"{kind}_{net}" for net in NETS) for kind in ("fd", "kd"))
MEANINGS |= dict.fromkeys(FRECHET, "Fréchet distance from the training images; comparable at equal counts alone")
MEANINGS |= dict.fromkeys(KERNEL, "kernel distance from the training images, unbiased")
ERROR = "its standard error; differences below three times that are none"
MEANINGS |= {f"{name}_spread": ERROR for name in FRECHET + KERNEL}


def about(config: Mapping[str, Any]) -> str:
    """What it is in one line: data, image size, levels × codes, priors."""
    dataset, autoencoder = config["dataset"], config["autoencoder"]
    said = [f"{dataset['name']}, {dataset['image_size']} × {dataset['image_size']} pixels"]
    said += [f"{autoencoder['name']} autoencoder, {sizes(config)}"]
    priors = [f"{name} {config['priors'][name]['name']}" for name in with_priors(config)]
    return "; ".join([*said, f"priors: {', '.join(priors)}" if priors else "no priors"])


def with_priors(config: Mapping[str, Any]) -> list[str]:
    """The levels that have one, coarse to fine."""
    return [name for name in configs.levels(config) if name in config["priors"]]


def sizes(config: Mapping[str, Any]) -> str:
    """`2 levels × 256 codes`, or `top 512 codes, bottom 256 codes`."""
    section, names = config["autoencoder"], configs.levels(config)
    sizes = [codes(section["quantizers"].get(name, section["quantizer"])) for name in names]
    if len(set(sizes)) == 1:
        return f"{len(names)} level{'s' * (len(names) > 1)} × {sizes[0]}"
    return ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))


def codes(quantizer: Mapping[str, Any]) -> str:
    """How many, of one level: `256 codes`, `4 depths of 256 codes`, `scales 1·2·4 of 256 codes`, `4 numbers`."""
    if "scales" in quantizer:
        return f"scales {'·'.join(map(str, quantizer['scales']))} of {codes(quantizer['inner'])}"
    if "inner" in quantizer:
        return f"{quantizer['depth']} depths of {codes(quantizer['inner'])}"
    if "levels" in quantizer:
        return f"{'·'.join(map(str, quantizer['levels']))} codes"
    if "bits" in quantizer:
        return f"{2 ** quantizer['bits']} codes"
    if "codebook_size" in quantizer:
        return f"{quantizer['codebook_size']} codes"
    return f"{quantizer['code_dim']} numbers"


class Card(NamedTuple):
    """One headline number."""

    title: str
    value: str
    note: str


def cards(metrics: Mapping[str, Any], levels: Sequence[str]) -> Iterator[Card]:
    """The headline: quality, use of the codes, and what the priors know."""
    measured = metrics.get("autoencoder", {})
    where = f"{metrics.get('images')} images of “{metrics.get('split')}”"
    if "psnr" in measured:
        yield Card("PSNR", number(measured["psnr"], ".2f", " dB"), where)
    if "ssim" in measured:
        yield Card("SSIM", number(measured["ssim"], ".3f"), where)
    maps = in_order((n.removeprefix("usage/") for n in measured), levels)
    for level in levels:
        if len(several := [name for name in maps if name.startswith(f"{level}.")]) > FEW:
            yield of_several(level, {name: measured[f"usage/{name}"] for name in several})
            maps = [name for name in maps if name not in several]
    for level in maps:
        perplexity = number(measured.get(f"perplexity/{level}"), ".1f")
        yield Card(f"Codes used, {level}", number(measured[f"usage/{level}"], ".1%"), f"perplexity {perplexity}")
    for level, prior in metrics.get("priors", {}).items():
        if "nll" not in prior:
            yield Card(f"Loss, {level}", number(prior["loss"], ".4f"), "of the prior")
            continue
        if "position_entropy" not in prior:  # imported: the tokens that it learned from are not here
            yield Card(f"nll, {level}", number(prior["nll"], ".3f"), "nats a token")
            continue
        note = f"{number(prior['nll'], '.3f')} / {number(prior['position_entropy'], '.3f')} nats a token"
        ratio = number(prior["nll_over_position_entropy"], ".3f")
        yield Card(f"nll / position entropy, {level}", ratio, note)
    if "bits_per_pixel" in metrics:
        yield Card("Bits a pixel", number(metrics["bits_per_pixel"], ".3f"), "all levels")
    for kind, measured in metrics.get("distances", {}).items():
        yield from distance_cards(kind, measured)


def of_several(level: str, usage: Mapping[str, Any]) -> Card:
    """One card for a level of many maps."""
    known = {name: value for name, value in usage.items() if value is not None}
    mean = sum(known.values()) / len(known) if known else None
    least = min(known, key=known.__getitem__) if known else None
    note = f"mean of {len(usage)} maps" + (f"; least {known[least]:.1%}, {least}" if least else "")
    return Card(f"Codes used, {level}", number(mean, ".1%"), note)


def distance_cards(kind: str, measured: Mapping[str, Any]) -> Iterator[Card]:
    """The Fréchet distance, or the kernel distance where there are too few pictures for it."""
    name = next((name for name in (*FRECHET, *KERNEL) if name in measured), None)
    if name is not None:
        floor = number(measured.get("floor", {}).get(name), ".3g")
        of = f"{measured.get('count')}, {name[3:]}; real images {floor}"
        if (spread := measured.get(f"{name}_spread")) is not None:
            of = f"± {number(spread, '.1g')}; {of}"
        yield Card(f"{name[:2].upper()}, {kind}", number(measured[name], ".3g"), of)


def facts(workdir: Path) -> dict[str, Any]:
    """What the data are like; {} before anything was trained."""
    known = facts_file.read(workdir) if facts_file.are_written(workdir) else {}
    names, counts = known.pop("label_names", []), known.pop("label_counts", [])
    labels = list(zip(names, counts or [None] * len(names), strict=False))
    return {"known": known, "labels": labels[:LABELS], "more": len(labels[LABELS:]), "most": max(counts, default=1)}


def commands(config: Mapping[str, Any], workdir: Path) -> list[tuple[str, str]]:
    """What to type to do it again."""
    here = f"--workdir={shlex.quote(str(workdir))}"
    again = f"python launch.py --config={shlex.quote(str(workdir / 'config.json'))} --workdir=runs/again"
    sample = [("sample", f"python -m vqvae_jax sample {here}")] if config["priors"] else []
    return [("train again", again), *sample, ("evaluate", f"python -m vqvae_jax evaluate {here}")]


def meaning(name: str) -> str:
    """Of `autoencoder/usage/top`: that of its last part that has one."""
    return next((MEANINGS[part] for part in reversed(name.split("/")) if part in MEANINGS), "")


def number(value: Any, form: str = ".6g", unit: str = "") -> str:
    """A number as text; null, which stands for NaN, as a dash."""
    if value is None:
        return "–"
    return f"{value:{form}}{unit}" if isinstance(value, float) else f"{value}{unit}"


def metrics_of(path: Path) -> dict[str, Any]:
    """What metrics.json says; {} before anything was evaluated."""
    try:
        metrics = read_json(path) if path.is_file() else {}
        _check_metrics(metrics)
        return metrics
    except ValueError as error:
        again = f"remove it and evaluate again: python -m vqvae_jax evaluate --workdir={path.parent}"
        raise UserError(f"{path} is damaged ({error}); {again}") from error


def _check_metrics(metrics: Mapping[str, Any]) -> None:
    """ValueError where there is something else than numbers, or not all that belong together."""
    priors = metrics.get("priors", {})
    for path, section in (("autoencoder", metrics.get("autoencoder", {})), ("priors", priors)):
        if not isinstance(section, dict):
            raise ValueError(f"{path} is no section")
    for name, prior in priors.items():
        if not isinstance(prior, dict) or not {"nll", "loss"} & prior.keys():
            raise ValueError(f"priors.{name} holds neither nll nor loss")
        if ("position_entropy" in prior) != ("nll_over_position_entropy" in prior):
            raise ValueError(f"priors.{name} holds a position_entropy or a ratio to it, not both")
    for section in (metrics.get("autoencoder", {}), *priors.values(), *_distances(metrics)):
        for name, value in section.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{name} is no number")


def _distances(metrics: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Their sections, and the floors in them. ValueError where there is something else."""
    found = metrics.get("distances", {})
    for section in found.values() if isinstance(found, dict) else [found]:
        if not isinstance(section, dict) or not isinstance(floor := section.get("floor", {}), dict):
            raise ValueError("distances is no section of sections")
        yield {name: value for name, value in section.items() if name != "floor"}
        yield floor


def in_order(names: Iterable[str], levels: Sequence[str]) -> list[str]:
    """Those that are token maps, coarse to fine: `top`, or `top.0`, `top.1`, … of a level with several."""
    keys = {}
    for name in names:
        level, _, depth = name.partition(".")
        if level in levels and (depth.isdecimal() or not depth):
            keys[name] = levels.index(level), int(depth or -1)
    several = {name.partition(".")[0] for name in keys if "." in name}
    return sorted(keys.keys() - several, key=keys.__getitem__)
