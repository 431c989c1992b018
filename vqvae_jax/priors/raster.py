"""Maps as one sequence: one after the other, each in raster order."""

from collections.abc import Sequence

import numpy as np


def raster(shapes: Sequence[tuple[int, int]], depths: int) -> np.ndarray:
    """Level, row, column and depth of each position, int [4, P].

    Rows and columns are those of the last map: a coarser token has those of the first place under it.

    Args:
        shapes: of the maps, coarse to fine.
        depths: tokens at each place of the last map; of the others one.
    """
    height, width = shapes[-1]
    every = []
    for level, (rows, columns) in enumerate(shapes):
        row, column, depth = np.indices((rows, columns, depths if level == len(shapes) - 1 else 1)).reshape(3, -1)
        every.append([np.full_like(row, level), row * height // rows, column * width // columns, depth])
    return np.concatenate(every, axis=1)
