"""The libraries that nothing but the report needs."""

import importlib
from typing import Any

from vqvae_jax.types import UserError


def imported(name: str) -> Any:
    """A module that only the report needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise UserError(f"a report needs {missing}, which is missing: pip install jinja2 matplotlib") from error
