"""Which of the dictionaries in a training's file holds the weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from vqvae_jax.interop.pickles import Tensor, stood_for
from vqvae_jax.interop.reading import plain
from vqvae_jax.types import UserError, unknown

WRAPPERS = ("module.", "_orig_mod.", "params/", "params.")  # of DataParallel, of torch.compile, of Flax
AVERAGED = "n_averaged"  # how many AveragedModel has seen
# Of latent diffusion's whole models: the autoencoder, the U-Net, and as Stable Diffusion 1 has it the text encoder.
FIRST_STAGE, UNET, CLIP = "first_stage_model.", "model.diffusion_model.", "cond_stage_model.transformer."
TRAINED = ("vae_local", "var_wo_ddp")  # VAR's trainer saves two state dicts by these names
SCALE = "scale_factor"  # and beside it, in some, what its latents are multiplied by
DEEPEST = 10  # dictionaries in dictionaries
MOST = 1000  # dictionaries in a file
LONGEST = 200  # characters of the name of a dictionary

Tensors = dict[str, Tensor]


def state_dict(value: Any, key: str | None, path: object) -> Tensors:
    """The tensors of the one dictionary that has them, or of the one at `key` ("ema", "state.model") or below it; or
    those in it whose names begin so.

    Lists, optimizer states (their keys are numbers) and dictionaries of mere scalars are passed over. Of a dictionary
    and one inside of it, the one with more tensors is meant. The two of VAR's trainer come together, by names that
    begin with theirs.

    Raises:
        UserError: there is none, there are several, or none at `key`; something in it is of a class that is not read.
    """
    if not isinstance(value, dict):
        what = f", but {name}" if (name := stood_for(value)) else ""
        raise UserError(f"{path} holds no dictionary of tensors{what}; save model.state_dict()")
    found, strange = _dictionaries(value, path)
    chosen = _at(found, key, path) if key else _likely(found)
    if not chosen:
        what = f", but {_listed_names(next(iter(strange.values())))}" if strange else ""
        raise UserError(f"{path} holds no tensors{what}; save model.state_dict()")
    together = {where.rpartition(".")[2] for where in chosen} == set(TRAINED)
    if len(chosen) > 1 and not together:
        raise UserError(f"{path} holds several state dicts; choose one by --key=NAME: {_listed(chosen)}")
    if others := [names for where in chosen if (names := strange.get(where))]:
        listed = _listed_names(others[0])
        raise UserError(f"{path} holds beside its tensors {listed}: not read; save model.state_dict()")
    if not together:
        return unwrapped(next(iter(chosen.values())))
    parts = {where.rpartition(".")[2]: unwrapped(tensors) for where, tensors in chosen.items()}
    return {f"{part}.{name}": one for part, tensors in parts.items() for name, one in tensors.items()}


def unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """Without the prefixes of wrappers, where all names share them; torch's AveragedModel counts beside.

    Of a whole model of latent diffusion its autoencoder, U-Net and text encoder, and the scale of its latents.
    """
    names, start = _inside_wrappers(tensors)
    tensors = {name[start:]: tensors[name] for name in names}
    if not any(name.startswith(FIRST_STAGE) for name in tensors):
        return tensors
    return {name: one for name, one in tensors.items() if name.startswith((FIRST_STAGE, UNET, CLIP)) or name == SCALE}


def _inside_wrappers(names: Iterable[str]) -> tuple[list[str], int]:
    """The names but for n_averaged, and the characters of the wrappers at the beginning of each."""
    start = 0
    while True:
        names = [name for name in names if not (name.endswith(AVERAGED) and len(name) == start + len(AVERAGED))]
        shared = (prefix for prefix in WRAPPERS if names and all(_goes_on(name, prefix, start) for name in names))
        if not (prefix := next(shared, "")):
            return names, start
        start += len(prefix)


def _goes_on(name: str, prefix: str, start: int) -> bool:
    return name.startswith(prefix, start) and len(name) > start + len(prefix)


def first_stage(tensors: dict[str, Any]) -> dict[str, Any]:
    """Of a whole model of latent diffusion the autoencoder, and the scale of its latents; others as they are."""
    inside = {name.removeprefix(FIRST_STAGE): one for name, one in tensors.items() if name.startswith(FIRST_STAGE)}
    return inside | {name: one for name, one in tensors.items() if name == SCALE} if inside else tensors


def _dictionaries(value: dict, file: object) -> tuple[dict[str, Tensors], dict[str, dict[str, str]]]:
    """Path → tensors, of all dictionaries that have some, each once; the outermost path is "".

    And path → what is of another class there: its name in the dictionary → the class.
    """
    found: dict[str, Tensors] = {}
    strange: dict[str, dict[str, str]] = {}
    seen: set[int] = set()
    waiting = [("", value, 0)]
    for path, here, depth in waiting:  # grows while it is walked
        if id(here) in seen or depth > DEEPEST:
            continue
        seen.add(id(here))
        named = {name: one for name, one in here.items() if isinstance(name, str)}
        if tensors := {name: one for name, one in named.items() if isinstance(one, Tensor)}:
            found[path] = tensors
        if others := {name: kind for name, one in named.items() if (kind := stood_for(one))}:
            strange[path] = others
        inside = ((name, one) for name, one in named.items() if isinstance(one, dict) and len(name) < LONGEST)
        waiting += [(f"{path}.{name}" if path else name, one, depth + 1) for name, one in inside]
        if len(waiting) > MOST:
            raise UserError(f"{file} holds more than {MOST} dictionaries; save model.state_dict() alone")
    return found, strange


def part(tensors: Mapping[str, Any], key: str, then: str = ".") -> dict[str, Any]:
    """Those whose names begin with `key.`, by what follows: `model.diffusion_model` is one part of a whole model."""
    start = f"{key}{then}"
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}


def _at(found: dict[str, Tensors], key: str, path: object) -> dict[str, Tensors]:
    if key in found:
        return {key: found[key]}
    below = {name: tensors for name, tensors in found.items() if name.startswith(f"{key}.")}
    if below:
        return _likely(below)
    parts = {where: inside for where, tensors in _likely(found).items() if (inside := part(tensors, key))}
    if not parts:
        raise UserError(unknown(f"--key: {path} has no state dict", key, map(plain, filter(None, found))))
    return parts


def _likely(found: dict[str, Tensors]) -> dict[str, Tensors]:
    weights = {path: tensors for path, tensors in found.items() if any(one.shape for one in tensors.values())} or found
    return {path: tensors for path, tensors in weights.items() if not _outdone(path, weights)}


def _outdone(path: str, weights: dict[str, Tensors]) -> bool:
    """Whether a dictionary around this one has more tensors, or one inside of it no fewer."""
    here = len(weights[path])
    around = any(len(one) > here for other, one in weights.items() if other != path and _inside(path, other))
    return around or any(len(one) >= here for other, one in weights.items() if other != path and _inside(other, path))


def _inside(path: str, other: str) -> bool:
    return not other or path.startswith(f"{other}.")


def _listed_names(strange: dict[str, str]) -> str:
    shown = [f"{plain(name)}, a {kind}" for name, kind in strange.items()]
    return "; ".join(shown[:5] + ["…"] * (len(shown) > 5))


def _listed(found: dict[str, Tensors]) -> str:
    shown = [f"{plain(path)} ({len(tensors)} tensors)" for path, tensors in found.items()]
    return ", ".join(shown[:20] + ["…"] * (len(shown) > 20))
