"""Whether a training fits into memory at all, said before anything is computed: the least that it takes beside what
there is. What passes here may still be too much; what is refused cannot be.
"""

import math
import os
from typing import Any

import jax

from vqvae_jax.backend import memory
from vqvae_jax.types import UserError

FLOAT = 4  # bytes
MOVED = 4  # arrays for each of weights: itself, its gradient, Adam's two means


def there_is() -> int | None:
    """Bytes of one device, on a CPU of the machine; None where nobody says."""
    found = memory()
    return machine() if found is None else found


def machine() -> int | None:
    """Bytes of this machine; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no POSIX
        return None


def check_batch(path: str, batch_size: int, example: int, what: str) -> None:
    """UserError where the batches of a section `train` cannot be held.

    Args:
        path: of the section, for the message: "config.priors.top.train".
        batch_size: examples, over all devices.
        example: bytes that one takes at least.
        what: it is.
    """
    devices = jax.device_count() if memory() is not None else jax.process_count()
    if (room := there_is()) is None or batch_size * example <= room * devices:
        return
    fits = room * devices // example
    less = f"--{path}.batch_size=N with N far below {fits}" if fits else "not even one has room: choose smaller ones"
    raise UserError(
        f"{path}.batch_size={batch_size}: so many {what} take more than {said(batch_size * example)}, and there are "
        f"{said(room * devices)}; {less}"
    )


def check_weights(stage: str, model: Any) -> None:
    """UserError where the weights of a stage, shapes alone, cannot be trained."""
    params, codes = (
        sum(FLOAT * math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) for part in (model.params, model.codebooks)
    )
    room, least = there_is(), MOVED * params + codes
    if room is not None and least > room:
        raise UserError(
            f"{stage}: its weights, their gradients, Adam's means and the codes are {said(least)}, and there are "
            f"{said(room)}; choose smaller sizes: width, depth, codebook_size, code_dim"
        )


def check_pictures(flag: str, count: int, image_size: int, channels: int) -> None:
    """UserError where so many pictures to be drawn cannot be held at once."""
    room, least = machine(), count * image_size**2 * channels
    if room is not None and least > room:
        fits = room // (image_size**2 * channels)
        raise UserError(f"{flag}={count}: the pictures are {said(least)}, and there are {said(room)}; at most {fits}")


def said(size: int) -> str:
    """Bytes, for people."""
    power = min(6, max(0, size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.3g} {('', 'K', 'M', 'G', 'T', 'P', 'E')[power]}B"
