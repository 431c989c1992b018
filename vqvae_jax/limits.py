"""Which numbers a field can hold, as its type: `width: Count = 128`. A config is checked by it, for every part."""

import math
import typing
from typing import Annotated, Any, NamedTuple

WHOLE = 2**31 - 1  # the largest number of 32 bits, in which steps and tokens are counted


class Limits(NamedTuple):
    """From `least` to `most`; of shares and rates also above or below a number."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def complaint(self, value: float) -> str | None:
        """What is wrong with a number: "must be above 0"; None where nothing is."""
        if self.least <= value <= self.most and self.above < value < self.below:
            return None
        if self.least == 0 and 1 in (self.most, self.below):
            return f"is a share, from 0 to {'at most' if self.most == 1 else 'below'} 1"
        if value > self.most:
            return f"must be at most {self.most}"
        return "must not be negative" if self.least == 0 else "must be above 0"


Count = Annotated[int, Limits(1)]
Natural = Annotated[int, Limits(0)]
Few = Annotated[int, Limits(1, 20)]  # what halves the image
Several = Annotated[int, Limits(1, 1000)]  # what is built one by one
Blocks = Annotated[int, Limits(0, 1000)]
Reach = Annotated[int, Limits(1, 100)]  # how far a layer looks
Positive = Annotated[float, Limits(above=0)]
NotNegative = Annotated[float, Limits(0)]
Share = Annotated[float, Limits(0, 1)]
Rate = Annotated[float, Limits(0, below=1)]  # of a moving average


def limits(kind: Any) -> dict[str, Limits]:
    """Those of a class's fields, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    own = ((name, one) for name, hint in hints.items() for one in getattr(hint, "__metadata__", ()))
    return {name: one for name, one in own if isinstance(one, Limits)}
