"""What the scripts share that record authors' code from a checkout of their repository: flags, a start, the file."""

from __future__ import annotations  # torch may be missing

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from record_reference import write

try:
    import torch
except ModuleNotFoundError:  # --help works without
    torch = None


def parser_of(description: str | None, repository: str) -> argparse.ArgumentParser:
    """With --checkout of `repository`, --output and --seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help=f"of {repository}")
    parser.add_argument("--output", type=Path, required=True, help="the .npz")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def begun(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags as given; PyTorch draws by the seed, and modules of the checkout can be imported.

    Raises:
        SystemExit: a flag is wrong, or torch is missing.
    """
    given = parser.parse_args()
    if torch is None:
        raise SystemExit("it needs torch: pip install torch --index-url https://download.pytorch.org/whl/cpu")
    torch.manual_seed(given.seed)
    sys.path.insert(0, str(given.checkout))
    return given


def earlier(like: Path | None) -> dict[str, np.ndarray]:
    """The arrays of the recording that --like names; none without it."""
    return dict(np.load(like)) if like else {}


def taken(like: Mapping[str, np.ndarray], name: str, fresh: torch.Tensor) -> torch.Tensor:
    """What an earlier recording has of that name, or what is fresh."""
    return torch.from_numpy(like[name].copy()) if name in like else fresh


def finish(output: Path, found: Mapping[str, np.ndarray]) -> None:
    """Writes the file and says what is in it."""
    write(output, found)
    print(f"{output}: {len(found)} arrays, {output.stat().st_size / 1e3:.0f} kB")
