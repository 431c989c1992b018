"""What a prior is told, in the forms that more than one prior wants: labels, coarser maps, tokens that are kept."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from vqvae_jax.types import Array, Condition, Pick, Tokens, UserError


def labels(condition: Condition, count: int, none: int) -> Array:
    """int32 [count]; `none`, which means "no label", where no label is told."""
    return jnp.full(count, none, jnp.int32) if condition.label is None else condition.label


def check_no_label(prior: Any, pick: Pick, told: bool, level: str = "LEVEL") -> None:
    """UserError where a prior is to say what it would without a label, and never learned that.

    Args:
        prior: with `label_condition` and `label_dropout`, the share of examples that taught it.
        pick: guidance other than 1 asks for it.
        told: whether there is a label; without one everything asks for it.
        level: of the prior.
    """
    if not prior.label_condition or prior.label_dropout > 0 or (told and pick.guidance == 1):
        return
    why = f"guidance={pick.guidance:g} weighs the label against none" if told else "no label is told"
    instead = "leave guidance at 1" if told else "tell a label"
    raise UserError(
        f"{why}, but with label_dropout=0 the prior {level!r} never learned to do without one; "
        f"train it with --config.priors.{level}.label_dropout=0.1, or {instead}"
    )


def with_and_without_label(condition: Condition, count: int, none: int) -> Condition:
    """Twice the batch: once as it is, once without its label."""
    label = labels(condition, count, none)
    label = jnp.concatenate([label, jnp.full_like(label, none)])
    return Condition(label, tuple(jnp.concatenate([tokens, tokens]) for tokens in condition.coarse))


def halves(shape: tuple[int, int], count: int) -> tuple[tuple[int, int], ...]:
    """Shapes of so many maps above one of this shape, each half of the next, coarse to fine."""
    return tuple((shape[0] >> n, shape[1] >> n) for n in range(count, 0, -1))


def stacked(maps: Sequence[Array]) -> Array:
    """The maps of a level as its prior reads them: [B, h, w], or of several depths [B, h, w, depths]."""
    return maps[0] if len(maps) == 1 else jnp.stack(list(maps), axis=-1)


def unstacked(tokens: Array) -> Tokens:
    """The inverse."""
    return (tokens,) if tokens.ndim == 3 else tuple(jnp.moveaxis(tokens, -1, 0))


def kept(known: Array | None, keep: Array | None, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
    """Tokens that are not to be drawn, and where they are: int32 and bool [B, positions]; None where there are none.

    Args:
        known: int32 of the tokens' shape.
        keep: bool [h, w] or [B, h, w], of all depths of a place, or of the tokens' shape; True: copied from `known`.
        shape: of the tokens, [B, h, w] or [B, h, w, depths].

    Raises:
        UserError: one without the other, or another shape.
    """
    if known is None and keep is None:
        return None
    if known is None or keep is None:
        raise UserError("known and keep go together: the tokens, and the places where they are copied")
    known, keep = jnp.asarray(known, jnp.int32), jnp.asarray(keep, bool)
    if known.shape != shape or keep.shape not in (shape[1:3], shape[:3], shape):
        raise UserError(f"known is {shape}, keep {shape[1:3]} or {shape[:3]}; got {known.shape} and {keep.shape}")
    keep = keep[None] if keep.ndim == 2 else keep
    keep = keep[..., None] if keep.ndim < len(shape) else keep
    return known.reshape(shape[0], -1), jnp.broadcast_to(keep, shape).reshape(shape[0], -1)


def copied(drawn: Array, given: tuple[Array, Array] | None, position: Array) -> Array:
    """The tokens [B] drawn at a position, or those that are kept there."""
    if given is None:
        return drawn
    known, keep = given
    return jnp.where(keep[:, position], known[:, position], drawn)
