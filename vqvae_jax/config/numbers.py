"""Which numbers a field of a config can hold."""

import math

from vqvae_jax.config.sections import Block
from vqvae_jax.types import UserError

POSITIVE = {"image_size", "views", "learning_rate", "eps", "batch_size", "keep", "count", "top_p"}
POSITIVE |= {"log_every", "evaluate_every", "checkpoint_every"}
POSITIVE |= {"codebook_size", "code_dim", "levels", "width", "depth", "heads", "horizontal", "vertical"}
POSITIVE |= {"layers", "groups", "halvings", "residual_width"}
NOT_NEGATIVE = {"revive_after", "kmeans_iterations", "residual_blocks", "classes", "output_blocks"}
NOT_NEGATIVE |= {"condition_blocks"}
SHARES = {"decay", "dropout"}  # from 0 to 1
RATES = {"b1", "b2", "ema_rate"}  # from 0 to below 1
WHOLE = 2**31 - 1  # the largest number of 32 bits, in which steps and tokens are counted
# What is built one by one, or halves the image.
MOST = {"levels": 20, "halvings": 20, "layers": 1000, "residual_blocks": 1000, "output_blocks": 1000}
MOST |= {"condition_blocks": 1000, "horizontal": 100, "vertical": 100}


def check_sizes(block: Block) -> None:
    """UserError for what no computer can count to, and what is no number; before anything is made of it."""
    for name, value in block.values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if not math.isfinite(number):
                raise UserError(f"{block.path}.{name} wants plain numbers, got {value}")
            if isinstance(number, int) and not -WHOLE <= number <= MOST.get(name, WHOLE):
                raise UserError(f"{block.path}.{name} must be at most {MOST.get(name, WHOLE)}, got {value}")


def check_numbers(block: Block) -> None:
    """UserError for what no value of a field can be: sizes and cadences of 0, negative numbers in the plain sections,
    more than all."""
    for name, value in block.values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if name in POSITIVE and not value > 0:
            raise UserError(f"{block.path}.{name} must be above 0, got {value}")
        if (not block.table or name in NOT_NEGATIVE | SHARES) and not value >= 0:
            raise UserError(f"{block.path}.{name} must not be negative, got {value}")
        if (name in SHARES and value > 1) or (name in RATES and value >= 1):
            limit = "at most 1" if name in SHARES else "below 1"
            raise UserError(f"{block.path}.{name} is a share, from 0 to {limit}, got {value}")
