"""Capital that is bet against uniform ranks, for several sequences of them at a time.

Capital of 1 is bet that ranks are not uniform: at each one a part ε ∈ {-1, 0, 1} of it on low or on high ranks, by
factors 1 + ε (pₜ - ½), with a share of J = 0.01 moved between the three at each step (the simple jumper of Vovk, Petej,
Nouretdinov, Ahlberg, Carlsson & Gammerman, COPA 2021). No bet gains on the average, so the capital exceeds 1 / α, ever,
with a probability of at most α (Ville's inequality).

A bettor who loses for long has little left once something changes. So the capital is laid out in advance over all
times to begin at, a share of 1 / (j (j + 1)) for rank j; what has not begun is kept. That is a bet too, and what it
pays for a late change is a factor of about t², not an exponential one.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

_JUMP = 0.01
_BETS = np.array((-1.0, 0.0, 1.0))[:, None]
_MOST = 1e300


@dataclass(frozen=True)
class Bets:
    """What came of some bets.

    Attributes:
      value: the capitals after each.
      leans_low: whether most of what is begun is then bet on low ranks, which are those of high numbers.
    """

    value: Float[np.ndarray, "n count"]
    leans_low: Bool[np.ndarray, "n count"]


class Martingale:
    """The capitals of those who bet that ranks are not uniform, one for each sequence.

    Args:
      count: sequences.

    Attributes:
      value: float (count,), the capitals; 1 at the start.

    >>> bool(Martingale().bet(np.zeros((30, 1))).value[-1, 0] > 100)
    True
    """

    def __init__(self, count: int = 1) -> None:
        self.value = np.ones(count)
        self._shares, self._begun, self._steps = np.full((3, count), 1 / 3), np.zeros(count), np.zeros(count)

    def bet(self, ranks: Float[np.ndarray, "n count"]) -> Bets:
        """Bet on some more ranks in [0, 1] of each sequence; where one is not a number, nothing is bet."""
        shape = ranks.shape
        found = Bets(np.empty(shape), np.empty(shape, bool))
        is_there = ~np.isnan(ranks)
        changes = (is_there[1:] != is_there[:-1]).any(1)
        ends = [0, *(np.flatnonzero(changes) + 1), len(ranks)] if len(ranks) else [0]
        for start, end in pairwise(ends):
            self._bet(ranks[start:end], np.flatnonzero(is_there[start]), found, slice(start, end))
        return found

    def begin_anew(self, index: int) -> None:
        """Give a sequence its first capital again."""
        self.value[index], self._shares[:, index], self._begun[index], self._steps[index] = 1, 1 / 3, 0, 0

    def _bet(self, ranks: Float[np.ndarray, "n count"], columns: np.ndarray, found: Bets, rows: slice) -> None:
        """Bet on ranks of which all are there in some columns, and none in the others."""
        shares, begun, steps = self._shares[:, columns], self._begun[columns], self._steps[columns]
        values, leanings = np.empty((len(ranks), len(columns))), np.empty((len(ranks), len(columns)))
        for index, p in enumerate(ranks[:, columns] - 0.5):
            won = ((1 - _JUMP) * shares + _JUMP / 3) * (1 + _BETS * p)
            gain = won.sum(0)
            shares = won / gain
            steps = steps + 1
            begun = np.minimum((begun + 1 / (steps * (steps + 1))) * gain, _MOST)
            values[index] = begun + 1 / (steps + 1)
            leanings[index] = shares[0] - shares[-1]
        found.value[rows], found.leans_low[rows] = self.value, self._shares[0] > self._shares[-1]
        found.value[rows, columns], found.leans_low[rows, columns] = values, leanings > 0
        self._shares[:, columns], self._begun[columns], self._steps[columns] = shares, begun, steps
        if len(ranks):
            self.value[columns] = values[-1]
