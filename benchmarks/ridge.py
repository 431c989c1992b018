"""A yardstick for priors that are told texts: ridge regression from the words of a name to a small picture.

It knows which pixels go with which word and nothing else, and is learned in a second.
"""

from collections.abc import Sequence

import numpy as np

from vqvae_jax.data.text import words

SIDE = 16  # pixels of its pictures
PENALTY = 1.0  # on the squares of its weights: of 0.3, 1, 3 and 10 what ranks held-out names best


class Ridge:
    """Names → pictures [SIDE, SIDE, 3], linear in which words a name has.

    Args:
        images: uint8 [N, H, W, 3], their sides multiples of SIDE.
        names: N.
    """

    def __init__(self, images: np.ndarray, names: Sequence[str]):
        self._number = {word: i for i, word in enumerate(sorted(words(names)))}
        said, wanted = self._said(names), small(images)
        square = said.T @ said + PENALTY * np.eye(said.shape[1])
        self._weights = np.linalg.solve(square, said.T @ wanted)

    def score(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """How near the picture of each text is, [N]; higher is better."""
        return -np.sum(np.square(small(images) - self._foretold(texts)), axis=1)

    def sample(self, texts: Sequence[str], seed: int = 0) -> np.ndarray:
        """The picture of each text, uint8 [N, SIDE, SIDE, 3]; there is one alone, whatever the seed."""
        pictures = self._foretold(texts).reshape(-1, SIDE, SIDE, 3)
        return np.clip(255 * pictures, 0, 255).round().astype(np.uint8)

    def _foretold(self, texts: Sequence[str]) -> np.ndarray:
        return self._said(texts) @ self._weights

    def _said(self, texts: Sequence[str]) -> np.ndarray:
        """1 where a text has a word, [N, words + 1]; the last is always 1."""
        found = np.zeros((len(texts), len(self._number) + 1))
        found[:, -1] = 1
        for row, text in zip(found, texts, strict=True):
            row[[self._number[word] for word in words([text]) if word in self._number]] = 1
        return found


def small(images: np.ndarray) -> np.ndarray:
    """Means over squares of pixels, 0 to 1, [N, SIDE · SIDE · 3]."""
    each = images.shape[1] // SIDE
    cells = images.reshape(len(images), SIDE, each, SIDE, each, 3) / 255.0
    return cells.mean(axis=(2, 4)).reshape(len(images), -1)
