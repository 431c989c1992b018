"""What a benchmark found, kept where a file is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax.files import write_json


def keep(found: Mapping[str, Any], path: Path | None) -> None:
    """As JSON; without a path nothing is written."""
    if path:
        write_json(path, found)
