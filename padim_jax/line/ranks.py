"""Each number's rank among those before it, a block at a time.

    pₜ = (#{i < t : sᵢ > sₜ} + uₜ · (1 + #{i < t : sᵢ = sₜ})) / t,   uₜ uniform on [0, 1].

As long as all orders of the numbers are equally probable, these are independent and uniform on [0, 1], whatever the
numbers are distributed like (Vovk, Nouretdinov & Gammerman, ICML 2003).

To take no more memory however many come, a half of the numbers is forgotten whenever there are :data:`MOST`, chosen by
chance alone, and later ones are ranked among those that are left and those that follow. The ranks stay independent and
uniform: all that earlier ranks tell is how the numbers lie to each other by their times, and whatever that is, those
that chance leaves lie anywhere among them with equal probability. Neither the last numbers nor the first ones could be
kept instead: ranks in windows that overlap depend on each other, and so do ranks among numbers that stay the same.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

MOST = 2**13  # numbers that are kept, of which half are the newest then
_BLOCK = 256  # compared with each other one by one; all before them are sorted


class Ranks:
    """Ranks from the highest.

    Args:
      chance: chooses which numbers are forgotten; independent of the numbers and of u.

    >>> ranks = Ranks()
    >>> ranks.add(np.array([5.0, 7.0, 6.0]), np.zeros(3))
    array([0.        , 0.        , 0.33333333])
    """

    def __init__(self, chance: np.random.Generator | None = None) -> None:
        self._before, self._chance = np.zeros(0), np.random.default_rng(0) if chance is None else chance

    def add(self, numbers: Float[np.ndarray, " n"], u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Ranks of some more, in [0, 1].

        Args:
          numbers: finite, in their order.
          u: as of the formula.
        """
        found, start = np.empty(len(numbers)), 0
        while start < len(numbers):
            end = min(len(numbers), start + min(_BLOCK, MOST - len(self._before)))
            found[start:end] = self._add(numbers[start:end], u[start:end])
            start = end
            if len(self._before) == MOST:
                self._before = self._before[np.sort(self._chance.permutation(MOST)[: MOST // 2])]
        return found

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
