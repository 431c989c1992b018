"""NaN and infinity: noticed inside the step, which then changes nothing; told late, so that no step waits for it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.backend import choices
from vqvae_jax.types import Array, NotFinite, TrainState, UserError

SKIPPED_MOST = 100  # steps in a row that on_nan="skip" leaves out; then it is no single batch
KEPT_MOST = 1000  # steps whose flags lie on the device at once
SHOWN = 64  # indices of a batch in a message
NAMED = 3  # tensors in a message
FIRST_BAD = "first_bad"  # of the metrics, the one that no log wants


def kept_if_finite(
    old: TrainState, new: TrainState, metrics: Mapping[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The new state if the step is finite, else the old one; but `step` goes on, so that the next step is another one.

    A step is finite if its metrics are, and the parameters and codebooks it gives. Then so are Adam's moments: they are
    averages of gradients and of their squares, whose sum `grad_norm` is the root of.

    Args:
        old, new: before and after the step.
        metrics: of the step, scalars; its losses and `grad_norm` among them.

    Returns:
        (the state, the metrics with `finite`, 1 or 0, and `first_bad`, which of the tensors is not; -1 for none).
    """
    bad = jnp.stack([~jnp.all(jnp.isfinite(leaf)) for leaf in _tensors(new).values()])
    finite = jnp.all(jnp.isfinite(jnp.stack([jnp.asarray(value, jnp.float32) for value in metrics.values()])))
    finite &= ~jnp.any(bad)
    kept = _chosen(finite, new.replace(key=None), old.replace(key=None))
    first = jnp.where(jnp.any(bad), jnp.argmax(bad), -1)
    return kept.replace(step=new.step, key=old.key), {**metrics, "finite": finite.astype(jnp.float32), FIRST_BAD: first}


def _chosen(finite: Array, new: TrainState, old: TrainState) -> TrainState:
    if choices().kept_by_branch:
        return jax.lax.cond(finite, lambda: new, lambda: old)
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def check_finite(where: str, tree: Any, advice: str) -> None:
    """UserError where a pytree of arrays has NaN or infinity: "`where` holds NaN or infinity in …; `advice`".

    Numbers that are no floats are always finite, and so is what has no elements.
    """
    bad = [name for name, leaf in _floats(tree).items() if not np.all(np.isfinite(np.asarray(leaf)))]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(f"{where} holds NaN or infinity in {', '.join(bad[:NAMED])}{more}; {advice}")


class Step(NamedTuple):
    """What is kept of a step until someone looks."""

    number: int
    index: Any  # which of the data it saw, int [B]; None where the batch does not say
    metrics: Mapping[str, Array]


class Watch:
    """The flags of a training's steps, looked at where the numbers are fetched anyway.

    Args:
        stage: its name.
        on_nan: "stop" raises at the first step that is not finite; "skip" counts them, and raises after SKIPPED_MOST in
            a row.
        state: any of the training, for the names of its tensors.
    """

    def __init__(self, stage: str, on_nan: str, state: TrainState):
        self.stage, self.on_nan = stage, on_nan
        self.skipped = 0  # since the run began or went on
        self._names = tuple(_tensors(state)) if isinstance(state, TrainState) else ()
        self._row, self._kept = 0, list[Step]()

    def put(self, number: int, batch: Any, metrics: Mapping[str, Array]) -> None:
        """Keeps the flag of a step, which may still be on its way."""
        if "finite" not in metrics:
            return
        self._kept.append(Step(number, batch.get("index"), metrics))
        if len(self._kept) > KEPT_MOST:
            self.look(number - KEPT_MOST // 2)

    def look(self, until: int) -> None:
        """Looks at the steps up to number `until`.

        Raises:
            NotFinite: one of them is not finite, or with "skip" too many in a row are not.
        """
        steps = [step for step in self._kept if step.number <= until]
        self._kept = self._kept[len(steps) :]
        for step, finite in zip(steps, jax.device_get([step.metrics["finite"] for step in steps]), strict=True):
            self._row = 0 if finite else self._row + 1
            self.skipped += not finite
            if not finite and (self.on_nan == "stop" or self._row >= SKIPPED_MOST):
                raise NotFinite(f"{self._about(step)}; {self._advice()}")

    def look_at_loss(self, number: int, loss: float) -> None:
        """NotFinite where the held-out loss is not and the run is to stop: finite weights can be too large for it."""
        if self.on_nan == "stop" and not np.isfinite(loss):
            raise NotFinite(f"{self.stage}: the held-out loss is {loss} at step {number}; {self._advice()}")

    def _about(self, step: Step) -> str:
        """Which step, what of it is not finite, and what it saw."""
        values = {name: float(value) for name, value in jax.device_get(dict(step.metrics)).items()}
        first = int(values.pop(FIRST_BAD))
        names = [name for name, value in values.items() if not np.isfinite(value)]
        names = sorted(names, key=lambda name: name.startswith(("away/", "code_")))[: 2 * NAMED]  # losses first
        names += [self._names[first]] if first >= 0 and self._names else []
        row = f", as the {self._row - 1} before it," if self._row > 1 else ""
        return f"{self.stage}: step {step.number}{row} is not finite: {', '.join(names)}{_images(step.index)}"

    def _advice(self) -> str:
        section = "config" if self.stage == "autoencoder" else f"config.priors.{self.stage}"
        advice = (
            "the checkpoints before it stay as they are. With a new --workdir try a lower "
            f"--{section}.optimizer.learning_rate, or --{section}.optimizer.clip=1"
        )
        skip = f"; to go on here without such steps: --{section}.train.on_nan=skip"
        return advice if self.on_nan == "skip" else advice + skip


def _images(index: Any) -> str:
    """Of the first rows of this process."""
    if index is None:
        return ""
    rows = np.asarray(index.addressable_data(0)).tolist()
    return f"; its batch: index {', '.join(map(str, rows[:SHOWN]))}{', …' if len(rows) > SHOWN else ''}"


def _tensors(state: TrainState) -> dict[str, Any]:
    """What is looked at in every step, by path."""
    rival = getattr(state, "rival", None)  # what the model learns against
    others = {} if rival is None else {"rival": rival.params}
    return _floats({"params": state.params, "codebooks": state.codebooks, **others})


def _floats(tree: Any) -> dict[str, Any]:
    leaves: Iterable[Any] = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): leaf for path, leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)}
