"""What other rates would have done to decisions that were taken already."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padim_jax.line.records import VERDICTS, Decision, Verdict
from padim_jax.line.verdict import Decider
from padim_jax.runs.score import ScoredImage

BINS = 20  # of p-values, each as wide as the others, with its upper end
_ROUNDING = 1e-9  # of a p-value at the end of a part


@dataclass(frozen=True)
class Preview:
    """Decisions as they are, and as they would be.

    Attributes:
      now, then: how many there are of each verdict.
      changes: how many go from one verdict to another.
      agreed_now, agreed_then: of decisions that people corrected, how many have the verdict these say.
      corrected: how many people corrected.
      left_out: how many decisions another state of the model took, whose p-values say nothing of this one.
      bins: how many p-values lie in each of :data:`BINS` equal parts of [0, 1], each with its upper end, by the verdict
        that would be.
    """

    now: Counter[Verdict]
    then: Counter[Verdict]
    changes: Counter[tuple[Verdict, Verdict]]
    agreed_now: int
    agreed_then: int
    corrected: int
    left_out: int
    bins: dict[Verdict, list[int]]

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "decisions": self.now.total(),
            "now": {verdict: self.now[verdict] for verdict in VERDICTS},
            "then": {verdict: self.then[verdict] for verdict in VERDICTS},
            "changed": self.changes.total(),
            "changes": [{"from": a, "to": b, "count": count} for (a, b), count in sorted(self.changes.items())],
            "corrected": {"decisions": self.corrected, "agree_now": self.agreed_now, "agree_then": self.agreed_then},
            "left_out": self.left_out,
            "histogram": self.bins,
        }


def preview(decisions: Iterable[Decision], decider: Decider, digest: str) -> Preview:
    """What other rates would have said of decisions of a model, by the p-values and scores they were taken by.

    Decisions without a score stay as they are: an image that has none is not judged otherwise by other rates.

    Args:
      decisions: of the model, in any of its states.
      decider: by the other rates.
      digest: of the state of the model that ``decider`` is of; decisions of other states are left out.
    """
    now, then = Counter[Verdict](), Counter[Verdict]()
    changes, bins = Counter[tuple[Verdict, Verdict]](), dict[Verdict, list[int]]()
    agreed_now = agreed_then = corrected = left_out = 0
    for decision in decisions:
        if decision.model_digest != digest:
            left_out += 1
            continue
        verdict = _verdict(decision, decider)
        now[decision.verdict] += 1
        then[verdict] += 1
        if verdict != decision.verdict:
            changes[decision.verdict, verdict] += 1
        if decision.p_value is not None:
            bins.setdefault(verdict, [0] * BINS)[_bin(decision.p_value)] += 1
        if decision.correction is not None:
            corrected += 1
            agreed_now += decision.verdict == decision.correction.verdict
            agreed_then += verdict == decision.correction.verdict
    return Preview(now, then, changes, agreed_now, agreed_then, corrected, left_out, bins)


def _bin(p_value: float) -> int:
    return max(0, math.ceil(p_value * BINS - _ROUNDING) - 1)


def _verdict(decision: Decision, decider: Decider) -> Verdict:
    if decision.score is None or decision.p_value is None:
        return decision.verdict
    notes = tuple(decision.reason.split("; "))  # what was noted of the image is part of the reason
    item = replace(ScoredImage.empty(Path(decision.item), notes), score=decision.score, p_value=decision.p_value)
    return decider.verdict(item)[0]
