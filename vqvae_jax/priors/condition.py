"""What a prior is told, in the forms that more than one prior wants: labels, coarser maps, tokens that are kept."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vqvae_jax.types import Array, Condition, Level, Pick, Prior, Tokens, UserError


def check_codes(kind: str, maps: Sequence[Level], above: Sequence[Level]) -> None:
    """UserError unless all maps are of codes, and a prior's own of one size and one vocabulary: one a depth.

    Args:
        kind: the prior, as a message names it.
        maps: its own.
        above: those of the coarser levels.
    """
    for level in (*above, *maps):
        if level.vocab_size is None:
            raise UserError(
                f"{kind} reads codes, and {level.name!r} is a map of {level.channels} numbers a place; "
                "take a quantizer with codes, or leave the priors out: --config.priors={}"
            )
    if len({(level.shape, level.vocab_size) for level in maps}) > 1:
        several = ", ".join(f"{level.name} {level.shape[0]}x{level.shape[1]}" for level in maps)
        raise UserError(f"{kind} models maps of one size and one vocabulary, one a depth; these are {several}")


def labels(condition: Condition, count: int, none: int) -> Array:
    """int32 [count]; `none`, which means "no label", where no label is told."""
    return jnp.full(count, none, jnp.int32) if condition.label is None else condition.label


def hide_some(key: Array, label: Array, share: float, none: int) -> Array:
    """The labels int32 [B], about a share of them hidden: how a prior learns to do without."""
    return jnp.where(jax.random.bernoulli(key, share, label.shape), none, label)


def check_no_label(prior: Prior, pick: Pick, told: bool, level: str = "LEVEL") -> None:
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


def stacked(maps: Sequence[Array]) -> Array:
    """Maps of one size as one array: [B, h, w], or of several depths [B, h, w, depths]."""
    return maps[0] if len(maps) == 1 else jnp.stack(list(maps), axis=-1)


def unstacked(tokens: Array) -> Tokens:
    """The maps that `stacked` made one array of."""
    return (tokens,) if tokens.ndim == 3 else tuple(jnp.moveaxis(tokens, -1, 0))


def check_kept(known: Tokens | None, keep: Tokens | None, count: int, maps: Sequence[Level]) -> None:
    """UserError where one is without the other, or of other shapes than the maps [count, h, w] that are drawn."""
    if (known is None) != (keep is None):
        raise UserError("known and keep go together: the maps, and the places where they are copied")
    want = [(count, *level.shape) for level in maps]
    for name, given in (("known", known), ("keep", keep)):
        if given is not None and [one.shape[:3] for one in given] != want:
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
