"""Which plots of a training stand on the page: on one axis one quantity, each with what it is."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax.doctor import RECENT
from vqvae_jax.loss_weights import Weight, weight_at, weight_of
from vqvae_jax.report.words import in_order, number

INK = "#010203"  # becomes the colour of the page's text, light or dark
COLOURS = ("#3b7dd8", "#e0782f", "#35a065", "#ad5cc9", "#b8962b", "#3aa6b0", "#d6517d", "#7a7f87")
FIRST, LAST = (59, 125, 216), (224, 120, 47)  # of very many maps, with the others between
TRAIN, HELD_OUT = COLOURS[:2]
PARTS = 10  # of a training, whose means say what rose
RISEN = 1.03  # times its lowest part, and the sum of the loss has risen
OF_DISTANCE = "is a distance in units that the encoder chooses: it grows while the codes spread out"
TERMS = {  # what a term of the loss is, of training batches
    "reconstruction": "how far pictures are from the images",
    "feature": "how far a level's decoder is from what the next one encodes",
    "commitment": "how far the encoder is from its codes; moves the encoder",
    "codebook": "how far codes are from the encoder; moves the codes",
    "contrastive": "codes apart from vectors that are not theirs",
    "entropy": "how unsure places are of a code, less how unsure all of them together: nats",
    "kl": "how much the codes, or numbers, say: nats",
    "perceptual": "how far pictures are from the images in a frozen net's maps",
    "adversarial": "how little the critic is taken in; times the adaptive weight",
}
ADVERSARIAL = "adversarial"


class Line(NamedTuple):
    """One metric over training."""

    metric: str  # its name in metrics.jsonl
    label: str  # "" for none
    colour: str
    style: str = "-"  # "o" dots, "--" level at the last value


class Panel(NamedTuple):
    """One small plot."""

    title: str
    note: str
    lines: list[Line]
    log: bool = False
    share: bool = False  # from 0 to 1


def autoencoder_panels(
    entries: Sequence[Mapping[str, Any]], levels: Sequence[str], weights: Mapping[str, Weight]
) -> list[Panel]:
    """The loss and its terms, quality, and the use of the codes; in a batch and over the held-out images apart."""
    maps = coloured(in_order({name.rpartition("/")[2] for entry in entries for name in entry}, levels))
    by_level = coloured(levels)

    def lines(metric: str, style: str = "-") -> list[Line]:
        return [Line(f"{metric}/{name}", label, colour, style) for name, label, colour in maps]

    def of_levels(metric: str) -> list[Line]:
        return [Line(f"train/{metric}/{name}", label, colour) for name, label, colour in by_level]

    error, right = Line("held_out/loss", "", HELD_OUT, "o-"), [Line("train/critic_right", "", TRAIN)]
    varying = [Line(f"train/active/{name}", name, TRAIN) for name in levels]
    return [
        Panel("Loss", "the weighted sum of its terms, in training", [Line("train/loss", "", TRAIN)], log=True),
        *(term(name, by_level, weights) for name in TERMS),
        Panel("Held-out error", "mse, in the units of dataset.range", [error], log=True),
        Panel("PSNR", "dB, held out", [Line("held_out/psnr", "", HELD_OUT, "o-")]),
        Panel("Perplexity in a batch", "codes, as if all were used equally", lines("train/batch_perplexity")),
        Panel("Perplexity, held out", "the same over all held-out images", lines("held_out/perplexity", "o-")),
        Panel("Share of codes used in a batch", "training", lines("train/batch_usage"), share=True),
        Panel("Share of codes used, held out", "over all held-out images", lines("held_out/usage", "o-"), share=True),
        Panel("Codes used lately", f"share used in the last {RECENT} steps", of_levels("recent_usage"), share=True),
        Panel("Longest code", "length", of_levels("code_norm_max"), log=True),
        Panel("Revived codes", "in a step", of_levels("revived")),
        Panel("Numbers that vary", "share of a place's", varying, share=True),
        Panel("Critic", "share of patches judged rightly; half is chance", right, share=True),
        Panel("Adaptive weight", "of the critic's part", [Line("train/adaptive_weight", "", TRAIN)], log=True),
    ]


def coloured(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, label, colour) of each. Of more than there are colours only the ends are labelled, with shades between."""
    if len(names) <= len(COLOURS):
        return [(name, name, colour) for name, colour in zip(names, COLOURS, strict=False)]
    shares = [i / (len(names) - 1) for i in range(len(names))]
    rgb = [[round(a + (b - a) * share) for a, b in zip(FIRST, LAST, strict=True)] for share in shares]
    return [
        (name, name if i in (0, len(names) - 1) else "", "#{:02x}{:02x}{:02x}".format(*colour))
        for i, (name, colour) in enumerate(zip(names, rgb, strict=True))
    ]


def term(name: str, levels: Sequence[tuple[str, str, str]], weights: Mapping[str, Weight]) -> Panel:
    """One term of the loss, before its weight, a line a level that has it."""
    each = [Line(f"train/{name}/{level}", label, colour) for level, label, colour in levels]
    said = {key: weight_said(weight) for key, weight in weights.items() if key.partition("/")[0] == name}
    alike = len({*said.values()}) <= 1
    weight = "".join({*said.values()}) if alike else ", ".join(f"{key} {one}" for key, one in said.items())
    return Panel(name, f"{TERMS[name]}; weight {weight or '0'}", [Line(f"train/{name}", "", TRAIN), *each], log=True)


def weight_said(weight: Weight) -> str:
    """0.25, or a ramp."""
    if not isinstance(weight, Mapping):
        return f"{weight:g}"
    end = weight["start"] + weight["steps"]
    return f"{weight['begin']:g} → {weight['end']:g} in steps {weight['start']} to {end}"


def remark(entries: Sequence[Mapping[str, Any]], weights: Mapping[str, Weight]) -> str:
    """Why the sum of the loss rose while the reconstruction fell; "" where it did not."""
    logged = [entry for entry in entries if entry.get("train/loss") is not None]
    bounds = np.linspace(0, len(logged), min(PARTS, len(logged)) + 1).astype(int)
    parts = [logged[start:stop] for start, stop in itertools.pairwise(bounds)]
    if len(parts) < 3 or any(entry.get("train/reconstruction") is None for entry in logged):
        return ""
    lowest = min(parts, key=lambda part: mean(part, "train/loss"))
    before, after = (mean(part, "train/loss") for part in (lowest, parts[-1]))
    sharper, now = (mean(part, "train/reconstruction") for part in (lowest, parts[-1]))
    grown = {name: weighed(parts[-1], name, weights) - weighed(lowest, name, weights) for name in terms_in(logged)}
    most = max(grown, key=grown.__getitem__, default="")
    if before <= 0 or after < RISEN * before or now >= sharper or grown.get(most, 0) <= 0:
        return ""
    why = OF_DISTANCE if most.partition("/")[0] in ("commitment", "codebook", "feature") else "is weighed against it"
    return (
        f"The sum rose from {number(before, '.3g')} to {number(after, '.3g')} while the reconstruction fell from "
        f"{number(sharper, '.3g')} to {number(now, '.3g')}: what grew is {most}, which {why}. "
        "Judge by the reconstruction and by what is held out."
    )


def terms_in(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The terms of the loss that were logged: "commitment/top"."""
    names = {name.removeprefix("train/") for entry in entries for name in entry if name.startswith("train/")}
    return sorted(name for name in names if name.partition("/")[0] in TERMS)


def weighed(part: Sequence[Mapping[str, Any]], name: str, weights: Mapping[str, Weight]) -> float:
    """What a term adds to the sum, the mean over some entries."""
    weight = weight_at(weight_of(weights, name) or 0.0, part[-1]["step"])
    adaptive = mean(part, "train/adaptive_weight") if name == ADVERSARIAL else 1.0
    return float(weight) * adaptive * mean(part, f"train/{name}")


def mean(part: Sequence[Mapping[str, Any]], name: str) -> float:
    """Of what was logged and finite; 0 of nothing."""
    values = [entry[name] for entry in part if entry.get(name) is not None]
    return sum(values) / max(1, len(values))


def prior_panels(entries: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What the prior knows, beside what counting knows; and whether it learns calmly."""
    found = {name for entry in entries for name in entry}
    nll = [
        Line("train/nll", "train", TRAIN),
        Line("held_out/nll", "held out", HELD_OUT, "o-"),
        Line("held_out/position_entropy", "position entropy", INK, "--"),
    ]
    loss = [Line("train/loss", "train", TRAIN)]
    if "held_out/nll" not in found:  # else the held-out loss is the nll, or its bound: another quantity
        loss.append(Line("held_out/loss", "held out", HELD_OUT, "o-"))
    another = Line("held_out/with_another_text", "another image's text", INK, ":")
    (nll if "held_out/nll" in found else loss).append(another)
    if "train/nll" in found:
        loss = []  # it is the nll, or that and the text's
    text = [Line("train/text", "train", TRAIN), Line("held_out/text", "held out", HELD_OUT, "o-")]
    return [
        Panel("nll", "nats a token", nll),
        Panel("Loss", "weighted sum", loss),
        Panel("Text", "nats a place", text),
        Panel("Gradient norm", "before clipping", [Line("train/grad_norm", "", TRAIN)], log=True),
    ]
