"""Each number's rank among those before it, a block at a time.

    pₜ = (#{i < t : sᵢ > sₜ} + uₜ · (1 + #{i < t : sᵢ = sₜ})) / t,   uₜ uniform on [0, 1].

As long as all orders of the numbers are equally probable, these are independent and uniform on [0, 1], whatever the
numbers are distributed like (Vovk, Nouretdinov & Gammerman, ICML 2003).
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

_BLOCK = 256  # compared with each other one by one; all before them are sorted


class Ranks:
    """Ranks from the highest.

    >>> ranks = Ranks()
    >>> ranks.add(np.array([5.0, 7.0, 6.0]), np.zeros(3))
    array([0.        , 0.        , 0.33333333])
    """

    def __init__(self) -> None:
        self._before = np.zeros(0)

    def add(self, numbers: Float[np.ndarray, " n"], u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Ranks of some more, in [0, 1].

        Args:
          numbers: finite, in their order.
          u: as of the formula.
        """
        starts = range(0, len(numbers), _BLOCK)
        parts = [self._add(numbers[start : start + _BLOCK], u[start : start + _BLOCK]) for start in starts]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _add(self, numbers: Float[np.ndarray, " n"], u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        before, count = self._before, np.arange(len(numbers))
        last = np.searchsorted(before, numbers, "right")
        equal = last - np.searchsorted(before, numbers, "left")
        is_earlier = count[:, None] > count
        above = len(before) - last + ((numbers > numbers[:, None]) & is_earlier).sum(1)
        equal += ((numbers == numbers[:, None]) & is_earlier).sum(1)
        own = np.sort(numbers)
        self._before = np.insert(before, np.searchsorted(before, own), own)
        return (above + u * (1 + equal)) / (len(before) + 1 + count)


def ranks(numbers: Iterable[tuple[float, float]]) -> Float[np.ndarray, " n"]:
    """Ranks of numbers with their u."""
    found = np.array(list(numbers), float).reshape(-1, 2)
    return Ranks().add(found[:, 0], found[:, 1])
