"""Whether the numbers of a section can be: each part says its limits in the types of its fields, see `limits`."""

import math

from vqvae_jax.config.sections import Block
from vqvae_jax.limits import WHOLE, Limits, limits
from vqvae_jax.types import UserError


def check_sizes(block: Block) -> None:
    """UserError for what no computer can count to, and what is no number; before anything is made of it."""
    known = limits(block.kind)
    for name, value in block.values.items():
        most = min(known.get(name, Limits()).most, WHOLE)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if not math.isfinite(number):
                raise UserError(f"{block.path}.{name} wants plain numbers, got {value}")
            if isinstance(number, int) and not -WHOLE <= number <= most:
                raise UserError(f"{block.path}.{name} must be at most {most}, got {value}")


def check_numbers(block: Block) -> None:
    """UserError for what no value of a field can be: sizes and cadences of 0, negative numbers, more than all."""
    for name, limit in limits(block.kind).items():
        value = block.values.get(name)
        if isinstance(value, (int, float)) and (complaint := limit.complaint(value)):
            raise UserError(f"{block.path}.{name} {complaint}, got {value}")
