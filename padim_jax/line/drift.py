"""Whether images have drifted, in what and where: bets against their staying alike, at a stated rate of false alarms.

It takes one image of each part, in the order of the parts. As long as nothing changes, those that one source (a camera,
a folder) gave to one state of a model are equally probable in any order, defects at their usual rate among them. Then
what they score, how bright, sharp and placed they are, and how high their map is at each place, each ranked among the
images before (:mod:`padim_jax.line.ranks`), are uniform numbers, and whoever bets against that gains nothing on the
average (:mod:`padim_jax.line.martingale`).

Frames that follow each other are not equally probable in any order: several of one part are like each other. Bets win
on that, so there are false alarms, almost surely.

Capital of 1 is split in advance between these quantities q, in shares w(q): a half for the score, 1 / 16 for each of
brightness, contrast, sharpness, row, column and turn, and 1 / 8 for all places together. Each share is bet by itself,
and what it has become reaches 1 / α, ever, with a probability of at most w(q) α. So the probability that there is any
alarm for a source of a state of a model, ever, is at most α, however the quantities depend on each other.

The sum of all shares would seem to be a better test: it never is less than one of them. But it is no martingale: ranks
of one quantity are uniform whatever its own earlier ranks were, and not whatever those of all others were, which
together tell of the distribution itself. Only each by itself is known to keep its rate, and each names what changed.
What it costs is little, as capital that wins grows exponentially.

The rate is that of one source and one fixed beginning: whoever begins anew bets anew, with the same rate once more. A
quantity begins anew after its alarm, ranked among the images that came since: what they are then like is what a later
change, or a return to what was before, is measured by. As the alarm depends on nothing that comes later, these images
are as equally probable in any order as the first ones were. All begins anew where retention deletes decisions, the
oldest of which can't be ranked against any more, and where another first time is asked for. What was corrected, or
waits, is kept longer than others, and is no fair sample of what was deleted:
:meth:`padim_jax.line.store.Store.scores` gives what came after the last decision that was deleted.

Of many images a sample is remembered, a half or more of which are of the last some thousand. Ranks among them stay
independent and uniform, so the rate stays too (:mod:`padim_jax.line.ranks`); the price is that a change which takes
longer than that is found later, or not at all.

The p-values of verdicts would not do: they compare every image with the same calibration, so they depend on each
other, and where the calibration's images were left out in turn they are not exactly uniform either
(:mod:`padim_jax.method.calibration`). Bets on them would notice that alone, after some times as many images as the
calibration has. The price of ranks is that a line which differs from the calibration from its first image on, and stays
as it is, shows no drift.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal, get_args

import numpy as np

from padim_jax.line.appearance import FIGURES, GRID
from padim_jax.line.martingale import Martingale
from padim_jax.line.ranks import Ranks
from padim_jax.line.records import Decision, Scored

RATE = 0.01
MOST_SOURCES = 32  # of a state of a model, that are followed each by itself
OTHERS = "(others)"
Kind = Literal["score", "brightness", "contrast", "sharpness", "row", "column", "turn", "place"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SHARES = {"score": 1 / 2, "place": 1 / 8 / GRID**2} | dict.fromkeys(FIGURES, 1 / 16)
_DIGITS = 13  # hexadecimal ones of a decision's id that make its u; as many as a float holds
_BOLD = 1.9  # factor of bets by which a change is dated; boldly, they lose fast where there is none, so they tell when
_TOGETHER = 4096  # decisions sorted by their sources at a time
_PIECE = 256  # decisions of a source ranked at a time; an alarm bets anew on the rest, one call within the other


@dataclass(frozen=True)
class Quantity:
    """What is followed from image to image.

    Attributes:
      kind: the score, what an image is like (:class:`padim_jax.line.appearance.Appearance`), or its map at a place.
      place: row and column of the place, from 0 at the top left; None of other kinds.
    """

    kind: Kind
    place: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Of the capital, which is that of the rate of false alarms too."""
        return _SHARES[self.kind]

    def record(self) -> dict[str, Any]:
        """As JSON has it; the place counted from 0."""
        return {"kind": self.kind, "place": None if self.place is None else list(self.place)}


QUANTITIES = (
    *(Quantity(kind) for kind in KINDS[:-1]),
    *(Quantity("place", place) for place in product(range(GRID), range(GRID))),
)


@dataclass(frozen=True)
class Alarm:
    """A change of a quantity.

    Attributes:
      quantity: which one.
      number: which one of this quantity it is, from 1.
      at: the decision at which the share of the capital reached 1 / rate.
      since: the decision from which on bets on that direction alone would have won most, about where the change was.
      is_higher: whether the quantity has become higher than it was since the alarm before, or since the beginning.
    """

    quantity: Quantity
    number: int
    at: Scored
    since: Scored
    is_higher: bool

    def record(self) -> dict[str, Any]:
        """As JSON has it; the decisions by sequence and time, and the place counted from 0."""
        found = {"change": self.number, "is_higher": self.is_higher}
        return self.quantity.record() | found | {"alarm": _mark(self.at), "since": _mark(self.since)}


@dataclass(frozen=True)
class Finding:
    """What one quantity says.

    Attributes:
      quantity: which one.
      images: how many have it.
      value: what its share of the capital has become since its last alarm; the share itself at the start.
      highest: the most that it has been.
      alarms: its changes, in their order.
    """

    quantity: Quantity
    images: int
    value: float
    highest: float
    alarms: tuple[Alarm, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON has it, with the last change."""
        own = self.quantity.record() | {name: getattr(self, name) for name in ("images", "value", "highest")}
        none = {"change": 0, "is_higher": None, "alarm": None, "since": None}
        return own | (self.alarms[-1].record() if self.alarms else none)


@dataclass(frozen=True)
class Drift:
    """What the images that one source gave to one state of a model say.

    Attributes:
      model, model_digest: whose.
      source: which one; None for those beyond the first :data:`MOST_SOURCES`, which are followed together.
      images: how many have a score.
      rate: probability of an alarm, ever, though nothing changes: at most this, for each beginning.
      last: the last decision.
      findings: what each quantity says, in the order of :data:`QUANTITIES`.
    """

    model: str
    model_digest: str
    source: str | None
    images: int
    rate: float
    last: Scored
    findings: tuple[Finding, ...]

    @property
    def source_name(self) -> str:
        """The source as it is shown, :data:`OTHERS` where it is None; a source may have that name too."""
        return OTHERS if self.source is None else self.source

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """All changes of all quantities, in the order in which they were seen."""
        found = (alarm for finding in self.findings for alarm in finding.alarms)
        return tuple(sorted(found, key=lambda one: one.at.sequence))

    @property
    def pictured(self) -> int:
        """How many images it is known of what they are like."""
        return max(finding.images for finding in self.findings[1:])

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        plain = ("model", "model_digest", "source", "images", "pictured", "rate")
        return {name: getattr(self, name) for name in plain} | {
            "has_drifted": bool(self.alarms),
            "findings": [finding.record() for finding in self.findings],
        }


class DriftTest:
    """Follows the images that one source gives to one state of a model, as they come.

    Args:
      rate: of false alarms, in (0, 1).
    """

    def __init__(self, rate: float) -> None:
        count = len(QUANTITIES)
        self._rate, self._images, self._last = rate, 0, list[Scored]()
        self._ranks, self._martingale = list[Ranks](), Martingale(count)
        self._shares = np.array([quantity.share for quantity in QUANTITIES])
        self._counts, self._highest = np.zeros(count, int), self._shares.copy()
        # of who bets on low ranks alone, and of who bets on high ones alone, by factors 1 ± 1.9 (p - ½): the logarithm
        # of what is left, its least, and the decision after that; None where it is the next one
        self._left, self._least = np.zeros((2, count)), np.zeros((2, count))
        self._since: list[list[Scored | None]] = [[None] * count for _ in range(2)]
        self._alarms: list[list[Alarm]] = [[] for _ in QUANTITIES]

    def add(self, decisions: Sequence[Scored]) -> None:
        """Follow some more decisions, in their order, one or more; all have a finite score."""
        self._ranks = self._ranks or [_ranks(decisions[0], column) for column in range(len(QUANTITIES))]
        self._images, self._last = self._images + len(decisions), [decisions[-1]]
        for start in range(0, len(decisions), _PIECE):
            piece = decisions[start : start + _PIECE]
            u = np.array([_uniform(decision.id) for decision in piece])
            self._follow(piece, _numbers(piece), u, range(len(QUANTITIES)))

    def _follow(self, decisions: Sequence[Scored], numbers: np.ndarray, u: np.ndarray, columns: Iterable[int]) -> None:
        """Bet on some quantities; those with an alarm begin anew after it."""
        ranks = np.full(numbers.shape, np.nan)
        for column in columns:
            is_there = ~np.isnan(numbers[:, column])
            if is_there.any():
                ranks[is_there, column] = self._ranks[column].add(numbers[is_there, column], u[is_there])
        bets = self._martingale.bet(ranks)
        values = self._shares * bets.value
        p = _BOLD * (np.where(np.isnan(ranks), 0.5, ranks) - 0.5)
        gains = np.log1p(np.stack([-p, p]))
        gains[:, 0] += self._left  # before the others, so that the sums are the same in pieces of any length
        left = np.cumsum(gains, axis=1)
        ends = {column: self._look(column, decisions, values, left, bets.leans_low) for column in columns}
        self._left = left[:, -1]
        for column, end in ends.items():
            stop = len(decisions) if end is None else end
            self._counts[column] += np.count_nonzero(~np.isnan(numbers[:stop, column]))
            self._highest[column] = max(self._highest[column], values[:stop, column].max())
            if end is not None:
                self._begin_anew(column, decisions[end - 1])
                if end < len(decisions):
                    self._follow(decisions[end:], numbers[end:], u[end:], [column])

    def _look(
        self, column: int, decisions: Sequence[Scored], values: np.ndarray, left: np.ndarray, leans_low: np.ndarray
    ) -> int | None:
        """Note where bets on either direction began to win, and where the capital reached the alarm: after how many."""
        reached = np.flatnonzero(values[:, column] >= 1 / self._rate)
        end = int(reached[0]) + 1 if len(reached) else len(values)
        for way, since in enumerate(self._since):
            since[column] = since[column] or decisions[0]
            least = int(np.argmin(left[way, :end, column]))
            if left[way, least, column] < self._least[way, column]:
                self._least[way, column] = left[way, least, column]
                since[column] = decisions[least + 1] if least + 1 < len(decisions) else None
        if not len(reached):
            return None
        at, is_higher, alarms = decisions[end - 1], bool(leans_low[end - 1, column]), self._alarms[column]
        since = self._since[0 if is_higher else 1][column] or at
        alarms.append(Alarm(QUANTITIES[column], len(alarms) + 1, at, since, is_higher))
        return end

    def _begin_anew(self, column: int, last: Scored) -> None:
        """Forget what a quantity was like."""
        self._ranks[column] = _ranks(last, column)
        self._martingale.begin_anew(column)
        self._left[:, column] = self._least[:, column] = 0
        for since in self._since:
            since[column] = None

    def found(self, model: str, model_digest: str, source: str | None) -> Drift:
        """What they say so far; there has to be one."""
        now, findings = self._shares * self._martingale.value, list[Finding]()
        for column, (quantity, alarms) in enumerate(zip(QUANTITIES, self._alarms, strict=True)):
            counts = int(self._counts[column]), float(now[column]), float(self._highest[column])
            findings.append(Finding(quantity, *counts, tuple(alarms)))
        return Drift(model, model_digest, source, self._images, self._rate, self._last[-1], tuple(findings))


class DriftTests:
    """Follows the images of every source of every state of every model.

    Of a state of a model, the first :data:`MOST_SOURCES` sources are followed each by itself, and all others together
    as None, so that names which clients make up take no more memory and numbers than that. The first ones are those
    whose first decisions come first among those that are added here, and they keep their places. Another one of these,
    as after a restart, counts anew from what it is given: where retention has deleted the first decisions since, a
    source may be followed with the others that was followed by itself before, or the reverse, and begins anew there.

    Args:
      rate: of false alarms, in (0, 1): the probability that there is ever one for a source of a state of a model that
        stays as it is, as long as the first decision stays the same; once more for what begins anew after an alarm.

    Raises:
      ValueError: a rate outside (0, 1).
    """

    def __init__(self, rate: float = RATE) -> None:
        if not 0 < rate < 1:
            raise ValueError(f"find_drifts: rate={rate!r}, wanted a number above 0 and below 1")
        self._rate, self._tests = rate, dict[tuple[str, str, str | None], DriftTest]()
        self._sources = dict[tuple[str, str], set[str]]()

    def add(self, decisions: Iterable[Decision | Scored]) -> None:
        """Follow some more decisions, in their order; those without a finite score are passed over."""
        remaining = iter(decisions)
        while part := list(islice(remaining, _TOGETHER)):
            groups = dict[tuple[str, str, str | None], list[Scored]]()
            for decision in part:
                if decision.score is not None and math.isfinite(decision.score):
                    groups.setdefault(self._key(decision), []).append(_scored(decision))
            for key, group in groups.items():
                self._tests.setdefault(key, DriftTest(self._rate)).add(group)

    def _key(self, decision: Decision | Scored) -> tuple[str, str, str | None]:
        """Which test a decision is for."""
        state = decision.model, decision.model_digest
        sources = self._sources.setdefault(state, set())
        if decision.source not in sources and len(sources) < MOST_SOURCES:
            sources.add(decision.source)
        return *state, decision.source if decision.source in sources else None

    def found(self) -> list[Drift]:
        """What they say so far, in the order of their first decisions."""
        return [test.found(*key) for key, test in self._tests.items()]


def find_drifts(decisions: Iterable[Decision | Scored], rate: float = RATE) -> list[Drift]:
    """What the images of each source of each state of each model say, in the order of their first decisions.

    Args:
      decisions: in their order, none missing since the first; those without a score are passed over.
      rate: as of :class:`DriftTests`.

    Raises:
      ValueError: a rate outside (0, 1).
    """
    tests = DriftTests(rate)
    tests.add(decisions)
    return tests.found()


def _scored(decision: Decision | Scored) -> Scored:
    """What is needed of a decision; its regions would take far more memory."""
    if isinstance(decision, Scored):
        return decision
    return Scored(*(getattr(decision, name) for name in Scored.__slots__))


def _numbers(decisions: Sequence[Scored]) -> np.ndarray:
    """The quantities of each decision, not a number where there is none."""
    found = np.full((len(decisions), len(QUANTITIES)), np.nan)
    for row, decision in zip(found, decisions, strict=True):
        row[0] = decision.score
        if decision.appearance is not None:
            row[1:] = decision.appearance.numbers
    return found


def _uniform(id: str) -> float:
    """A number in [0, 1) from a decision's id, which is a digest, so that the same store gives the same result."""
    return int(id[:_DIGITS], 16) / 16**_DIGITS


def _ranks(first: Scored, column: int) -> Ranks:
    """Ranks of a quantity from a decision on; what they forget is drawn by the digits of its id that make no u."""
    return Ranks(np.random.default_rng((int(first.id[_DIGITS:], 16), column)))


def _mark(decision: Scored) -> dict[str, Any]:
    return {"sequence": decision.sequence, "time": decision.time}
