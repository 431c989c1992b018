"""What a prior is told, as more than one prior wants it: labels, texts, coarser maps, tokens that are kept."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.types import Array, Condition, Level, Pick, Prior, Tokens, UserError

HIDDEN = ("label", "text")  # from some examples in training, so that a prior can do without


def check_codes(kind: str, maps: Sequence[Level], above: Sequence[Level]) -> None:
    """UserError unless all maps are of codes, and a prior's own of one size and one vocabulary: one a depth.

    Arguments are those of `check_are_codes`.
    """
    check_are_codes(kind, maps, above)
    if len({(level.shape, level.vocab_size) for level in maps}) > 1:
        several = ", ".join(f"{level.name} {level.shape[0]}x{level.shape[1]}" for level in maps)
        raise UserError(
            f"{kind} models maps of one size and one vocabulary, one a depth; these are {several}; the prior for "
            f"growing ones is --config.priors.{maps[0].name.partition('.')[0]}.name=var"
        )


def check_are_codes(kind: str, maps: Sequence[Level], above: Sequence[Level]) -> None:
    """UserError unless all maps are of codes.

    Args:
        kind: the prior, as a message names it.
        maps: its own.
        above: those of the coarser levels.
    """
    for level in (*above, *maps):
        if level.vocab_size is None:
            own = f"--config.priors.{level.name}.name=diffusion" if level in maps else "diffusion on every level"
            raise UserError(
                f"{kind} reads codes, and {level.name!r} is a map of {level.channels} numbers a place; "
                f"take the prior for numbers, {own}, or a quantizer with codes"
            )


def told_label(prior: Any, condition: Condition, count: int, train: bool) -> Array:
    """The label of each example, int32 [count]; `num_labels` of the prior means "no label".

    In training about a share `label_dropout` are hidden, by the stream "dropout": how a prior learns to do without.
    """
    none = prior.num_labels
    label = jnp.full(count, none, jnp.int32) if condition.label is None else condition.label
    return _some_hidden(prior, label, none, prior.label_dropout if train else 0.0)


def told_text(prior: Any, condition: Condition, count: int, train: bool) -> Array:
    """The text of each example, int32 [count, T], zeros where none is told; hidden as labels are, but independently."""
    text = jnp.zeros((count, prior.text.length), jnp.int32) if condition.text is None else condition.text
    return _some_hidden(prior, text, 0, prior.text_dropout if train else 0.0)


def _some_hidden(prior: Any, told: Array, none: int, share: float) -> Array:
    if not share:
        return told
    hidden = jax.random.bernoulli(prior.make_rng("dropout"), share, told.shape[:1])
    return jnp.where(hidden.reshape(-1, *(1 for _ in told.shape[1:])), none, told)


def told_in(condition: Condition) -> set[str]:
    """What stands in a condition of what can be hidden: "label", "text"."""
    return {name for name in HIDDEN if getattr(condition, name) is not None}


def check_told(prior: Prior, pick: Pick, told: Collection[str], level: str = "LEVEL") -> None:
    """UserError where a prior is to say what it would without a label or a text, and never learned that.

    Args:
        prior: with `label_condition` and `label_dropout`, the share of examples that taught it; likewise of texts.
        pick: guidance other than 1 asks for it.
        told: which of both are told; without one everything asks for it.
        level: of the prior.
    """
    for name in HIDDEN:
        learned = not getattr(prior, f"{name}_condition", False) or getattr(prior, f"{name}_dropout") > 0
        if learned or (name in told and pick.guidance == 1):
            continue
        why = f"guidance={pick.guidance:g} weighs the {name} against none" if name in told else f"no {name} is told"
        instead = "leave guidance at 1" if name in told else f"tell a {name}"
        raise UserError(
            f"{why}, but with {name}_dropout=0 the prior {level!r} never learned to do without one; "
            f"train it with --config.priors.{level}.{name}_dropout=0.1, or {instead}"
        )


def check_pick(prior: Prior, pick: Pick, level: str = "LEVEL") -> None:
    """UserError for what only makes sense where there are codes to pick from, of a prior of numbers."""
    if prior.maps[0].vocab_size is None and (pick.top_k or pick.top_p < 1):
        raise UserError(
            f"top_k and top_p pick among codes, and the prior {level!r} draws numbers; "
            "leave them at top_k=0 and top_p=1"
        )


def guided(prior: Any, condition: Condition, pick: Pick, count: int) -> tuple[Condition, bool]:
    """What `count` examples are drawn under: where guidance asks for it twice, as it is and told nothing; and whether.

    Raises:
        UserError: the prior never learned to be told nothing.
    """
    check_told(prior, pick, told_in(condition))
    if pick.guidance == 1 or not any(getattr(prior, f"{name}_condition", False) for name in HIDDEN):
        return condition, False
    coarse = tuple(jnp.concatenate([tokens, tokens]) for tokens in condition.coarse)
    label, text = condition.label, condition.text
    if label is not None:
        label = jnp.concatenate([label, jnp.full_like(label, prior.num_labels)])
    if text is not None:
        text = jnp.concatenate([text, jnp.zeros_like(text)])
    return Condition(label, coarse, text), True


def stacked(maps: Sequence[Array]) -> Array:
    """Maps of one size as one array: [B, h, w], or of several depths [B, h, w, depths]."""
    return maps[0] if len(maps) == 1 else jnp.stack(list(maps), axis=-1)


def unstacked(tokens: Array) -> Tokens:
    """The maps that `stacked` made one array of."""
    return (tokens,) if tokens.ndim == 3 else tuple(jnp.moveaxis(tokens, -1, 0))


def check_kept(prior: Prior, known: Tokens | None, keep: Tokens | None, count: int) -> None:
    """UserError where one is without the other, or of other shapes than the maps [count, h, w] that are drawn.

    A prior with the field `sample_strength` may be given `known` alone, which it begins with.
    """
    if (known is None) != (keep is None) and (known is None or not hasattr(prior, "sample_strength")):
        raise UserError("known and keep go together: the maps, and the places where they are copied")
    want = [(count, *level.shape) for level in prior.maps]
    for name, given in (("known", known), ("keep", keep)):
        whole = want if name == "keep" else [(count, *level.form) for level in prior.maps]
        if given is not None and [one.shape for one in given] != whole:
            raise UserError(f"{name} is a map for each, {want}; got {[one.shape for one in given]}")


def kept(known: Tokens | None, keep: Tokens | None) -> tuple[Array, Array] | None:
    """Codes that are not to be drawn, and where they are: int32 and bool [B, positions]; None where there are none.

    Positions are place by place in raster order, at each place depth by depth. Shapes are as `check_kept` wants them.
    """
    if known is None or keep is None:
        return None
    flat = lambda maps: stacked(maps).reshape(len(maps[0]), -1)  # noqa: E731
    return flat(known).astype(jnp.int32), flat(keep).astype(bool)


def copied(drawn: Array, given: tuple[Array, Array] | None, position: Array) -> Array:
    """The tokens [B] drawn at a position, or those that are kept there."""
    if given is None:
        return drawn
    known, keep = given
    return jnp.where(keep[:, position], known[:, position], drawn)
