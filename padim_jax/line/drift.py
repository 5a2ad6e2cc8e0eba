"""Whether what images score has drifted: a bet against a line that stays as it is, with a stated rate of false alarms.

As long as nothing changes, the scores s₁, s₂ … of one state of a model are equally probable in any order, defects
at their usual rate among them. Then the ranks

    pₜ = (#{i < t : sᵢ > sₜ} + uₜ · (1 + #{i < t : sᵢ = sₜ})) / t,   uₜ uniform on [0, 1],

are independent and uniform on [0, 1], whatever the distribution of the scores (Vovk, Nouretdinov & Gammerman, ICML
2003). Capital of 1 is bet against that: at each image a part ε ∈ {-1, 0, 1} of it on low or on high ranks, by factors
1 + ε (pₜ - ½), with a share of J = 0.01 moved between the three at each step (the simple jumper of Vovk, Petej,
Nouretdinov, Ahlberg, Carlsson & Gammerman, COPA 2021). No bet gains on the average, so the capital exceeds 1 / α, ever,
with a probability of at most α (Ville's inequality).

A bettor who loses for long has little left once something changes. So the capital is laid out in advance over all times
to begin at, a share of 1 / (j (j + 1)) for image j; what has not begun is kept. That is a bet too, and what it pays for
a late change is a factor of about t², not an exponential one.

The rate is that of one fixed beginning: whoever begins anew bets anew, with the same rate once more. So it begins anew
where retention deletes decisions, the oldest of which can't be ranked against any more, and where another first time is
asked for. What was corrected, or waits, is kept longer than others, and is no fair sample of what was deleted:
:meth:`padim_jax.line.store.Store.scores` gives what came after the last decision that was deleted.

The p-values of verdicts would not do: they compare every image with the same calibration, so they depend on each
other, and where the calibration's images were left out in turn they are not exactly uniform either
(:mod:`padim_jax.method.calibration`). Bets on them would notice that alone, after some times as many images as the
calibration has. The price of ranks is that a line which differs from the calibration from its first image on, and stays
as it is, shows no drift.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from padim_jax.line.records import Decision, Scored

RATE = 0.01
_JUMP = 0.01
_BETS = (-1.0, 0.0, 1.0)
_DIGITS = 13  # hexadecimal ones of a decision's id that make its u; as many as a float holds


@dataclass(frozen=True)
class Drift:
    """What the scores of one state of a model say.

    Attributes:
      model, model_digest: whose.
      images: how many have a score.
      value: the capital now, 1 at the start.
      highest: the most that it has been.
      rate: probability of an alarm, ever, though nothing changes: at most this.
      alarm: the decision at which the capital first reached ``1 / rate``; None where it never did.
      since: the decision from which on the bets that led there won, about where the change was; None likewise.
      is_higher: whether scores have become higher; None likewise.
    """

    model: str
    model_digest: str
    images: int
    value: float
    highest: float
    rate: float
    alarm: Scored | None = None
    since: Scored | None = None
    is_higher: bool | None = None

    def record(self) -> dict[str, Any]:
        """As JSON has it; the decisions by sequence and time."""
        places = {"alarm": self.alarm, "since": self.since}
        plain = ("model", "model_digest", "images", "value", "highest", "rate", "is_higher")
        return {name: getattr(self, name) for name in plain} | {
            name: None if found is None else {"sequence": found.sequence, "time": found.time}
            for name, found in places.items()
        }


class Martingale:
    """The capital of one who bets that ranks are not uniform.

    Attributes:
      value: the capital.
      gain: by what factor the last bet changed what was laid out on it.

    >>> martingale = Martingale()
    >>> round(martingale.bet(0.5), 3)
    1.0
    """

    def __init__(self) -> None:
        self.value, self.gain = 1.0, 1.0
        self._shares, self._begun, self._steps = [1 / len(_BETS)] * len(_BETS), 0.0, 0

    def bet(self, p: float) -> float:
        """The capital after one more rank in [0, 1]."""
        mixed = [(1 - _JUMP) * share + _JUMP / len(_BETS) for share in self._shares]
        won = [share * (1 + bet * (p - 0.5)) for bet, share in zip(_BETS, mixed, strict=True)]
        self.gain = sum(won)
        self._shares = [share / self.gain for share in won]
        self._steps += 1
        self._begun = min((self._begun + 1 / (self._steps * (self._steps + 1))) * self.gain, 1e300)
        self.value = self._begun + 1 / (self._steps + 1)
        return self.value

    @property
    def leans_low(self) -> bool:
        """Whether most of what is begun is bet on low ranks, which are high scores."""
        return self._shares[0] > self._shares[-1]


def ranks(scores: Iterable[tuple[float, float]]) -> Iterable[float]:
    """Ranks from the highest, each among those before it, of scores with their u."""
    before = list[float]()
    for score, u in scores:
        first, last = bisect_left(before, score), bisect_right(before, score)
        yield (len(before) - last + u * (1 + last - first)) / (len(before) + 1)
        insort(before, score)


def find_drifts(decisions: Iterable[Decision | Scored], rate: float = RATE) -> list[Drift]:
    """What the scores of each state of each model say, in the order of their first decisions.

    Args:
      decisions: in their order, none missing since the first; those without a score are passed over.
      rate: of false alarms, in (0, 1): the probability that there is ever one for a state of a model that stays good,
        as long as all calls begin with the same decision.

    Raises:
      ValueError: a rate outside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"find_drifts: rate={rate!r}, wanted a number above 0 and below 1")
    groups = dict[tuple[str, str], list[Scored]]()
    for decision in decisions:
        if decision.score is not None and math.isfinite(decision.score):
            groups.setdefault((decision.model, decision.model_digest), []).append(_scored(decision))
    return [_find_drift(name, digest, group, rate) for (name, digest), group in groups.items()]


def _scored(decision: Decision | Scored) -> Scored:
    """What is needed of a decision; its regions would take far more memory."""
    if isinstance(decision, Scored):
        return decision
    return Scored(*(getattr(decision, name) for name in Scored.__slots__))


def _find_drift(name: str, digest: str, decisions: list[Scored], rate: float) -> Drift:
    martingale, total, lowest, since = Martingale(), 0.0, 0.0, decisions[0]
    highest, alarm, began, is_higher = 1.0, None, None, None
    scores = [(decision.score or 0.0, _uniform(decision.id)) for decision in decisions]
    for index, p in enumerate(ranks(scores)):
        value = martingale.bet(p)
        total += math.log(martingale.gain)
        if total < lowest and alarm is None:
            lowest, since = total, decisions[min(index + 1, len(decisions) - 1)]
        highest = max(highest, value)
        if alarm is None and value >= 1 / rate:
            alarm, began, is_higher = decisions[index], since, martingale.leans_low
    return Drift(name, digest, len(decisions), martingale.value, highest, rate, alarm, began, is_higher)


def _uniform(id: str) -> float:
    """A number in [0, 1) from a decision's id, which is a digest, so that the same store gives the same result."""
    return int(id[:_DIGITS], 16) / 16**_DIGITS
