"""The config of a run, kept in its workdir."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax.config.numbers import check_numbers
from vqvae_jax.config.reading import as_it_was_meant, complete
from vqvae_jax.config.sections import blocks, plain
from vqvae_jax.files import read_json, write_json
from vqvae_jax.types import UserError

FILE = "config.json"
BEGUN_IN = "begun_in"  # in data.json: the folder that relative paths begin at, as seen from the workdir
OWN = ("images.npz", "own_tokens")  # data that `fit` and `fit_prior` keep in the workdir, and that move with it
LAYERS = "stack"  # in place of all sections: bare layers, imported
# What may change when a run goes on, in each `train` section; all of `sample` may, and a prior's fields `sample_…`.
CADENCES = {"steps", "epochs", "log_every", "evaluate_every", "checkpoint_every", "pictures_every", "keep", "profile"}
CADENCES |= {"on_nan"}


def save(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Write config.json, whole or not at all."""
    write_json(Path(workdir) / FILE, config)


def load(workdir: str | Path) -> dict[str, Any]:
    """The config of a workdir, as it was saved; fields that came later have their defaults.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        train = f"python launch.py --config=configs/X.py --workdir={workdir}"
        raise UserError(f"{workdir} is not a workdir: no {FILE}; train first: {train}")
    try:
        written = plain(read_json(path))
        config = {} if LAYERS in written else complete(as_it_was_meant(written))
        for block in blocks(config) if config else ():
            check_numbers(block)
    except ValueError as error:  # UserError is one
        raise UserError(f"{path} is damaged ({error}); restore it, or use another --workdir") from error
    if not config:
        raise UserError(
            f"{workdir} holds layers without embedding and logits, or a network alone; it can be compared and exported "
            "only"
        )
    return config


def located(config: Mapping[str, Any], workdir: str | Path, begun_in: str | None) -> dict[str, Any]:
    """The config, its `dataset.path` where the data lie.

    Own arrays lie in the workdir, wherever that is now; a relative path begins here, else where the run was begun.
    """
    dataset = config["dataset"]
    if own := _own(config, workdir):
        return {**config, "dataset": {**dataset, "path": own}}
    there = Path(os.path.realpath(workdir)) / (begun_in or "") / dataset["path"]
    if begun_in is None or not dataset["path"] or Path(dataset["path"]).exists() or not there.exists():
        return dict(config)
    return {**config, "dataset": {**dataset, "path": os.path.normpath(there)}}


def _own(config: Mapping[str, Any], workdir: str | Path) -> str | None:
    """Where own arrays lie that the workdir keeps; None where the data are others."""
    there = Path(os.path.realpath(workdir)) / Path(config["dataset"]["path"]).name
    return str(there) if there.name in OWN and there.exists() else None


def agree(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Before a run starts or goes on: the workdir's config is this one, from now on.

    Durations, cadences, `on_nan` and `sample` may differ from what is stored, and are stored anew; own arrays may have
    moved with their workdir.

    Raises:
        UserError: anything else differs; all of it is listed, nothing is written.
    """
    if differs(config, workdir):
        save(config, workdir)


def differs(config: Mapping[str, Any], workdir: str | Path) -> bool:
    """Whether `agree` would write; it raises the same error, and nothing is written."""
    if not (Path(workdir) / FILE).is_file():
        return True
    stored = load(workdir)
    differing = changed(stored, config)
    if (own := _own(stored, workdir)) and own == _own(config, workdir):
        differing.pop("config.dataset.path", None)
    refused = {path: values for path, values in differing.items() if not _may_change(path)}
    if refused:
        raise UserError(
            f"{workdir} holds a run of another config, use another --workdir; stored → asked: {listed(refused)}"
        )
    return bool(differing)


def check_saved(config: Mapping[str, Any], saved: Mapping[str, Any], stage: str, where: str) -> None:
    """UserError where a stage's checkpoint was saved with another config: someone changed config.json since.

    What is not the stage's own does not count: the sections of other priors, cadences, where the data lie, and texts
    where it is told none.

    Args:
        config: of the workdir, complete.
        saved: as the checkpoint holds it; fields that came later have their defaults.
        stage: whose checkpoint it is.
        where: the checkpoint, for the message.
    """
    if "autoencoder" not in saved:  # weights that no recipe saved
        return
    own = f"config.priors.{stage}."
    free: tuple[str, ...] = ("config.priors.", "config.dataset.path", "config.text.")
    if flat(config).get(f"{own}text_condition"):
        free = ("config.priors.", "config.dataset.path")
    differing = changed(complete(as_it_was_meant(saved)), config)
    counts = [path for path in differing if path.startswith(own) or not path.startswith(free)]
    if differing := {path: differing[path] for path in counts if not _may_change(path)}:
        raise UserError(f"{FILE} was changed since {where} was saved, put it back; saved → now: {listed(differing)}")


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs between two configs, in words, by dotted path."""
    was, now = flat(before), flat(after)
    differing = (path for path in sorted({*was, *now}) if was.get(path) != now.get(path))
    return {path: (_shown(was, path), _shown(now, path)) for path in differing}


def listed(differing: Mapping[str, tuple[str, str]]) -> str:
    """Of `changed`, in one line."""
    return "; ".join(f"{path}: {was} → {now}" for path, (was, now) in differing.items())


def of_drawing(path: str) -> bool:
    """Whether the field of a dotted path says how pictures are drawn, and no more than that."""
    of_sampler = path.startswith("config.priors.") and path.rpartition(".")[2].startswith("sample_")
    return path.startswith("config.sample.") or of_sampler


def _may_change(path: str) -> bool:
    *_, section, field = path.split(".")
    return of_drawing(path) or (section == "train" and field in CADENCES)


def _shown(values: Mapping[str, Any], path: str) -> str:
    return repr(values[path]) if path in values else "(not set)"


def flat(values: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
    """Every value by its dotted path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}"
        found |= flat(value, here) if isinstance(value, dict) else {here: value}
    return found
