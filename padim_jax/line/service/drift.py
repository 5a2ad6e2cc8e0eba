"""Drift as the page and Prometheus see it: what was found at the last look."""

from collections.abc import Callable, Mapping

from padim_jax.lazy import extra
from padim_jax.line.drift import KINDS, RATE, Drift
from padim_jax.line.drift_words import CAUSES, record, sentences
from padim_jax.line.observer import EVERY, Observer
from padim_jax.line.service.metrics import Labels
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.store import Store

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import Response


class DriftNews:
    """Says what is new of drift, once for each change.

    Args:
      remark: told in a sentence.
    """

    def __init__(self, remark: Callable[[str], None]) -> None:
        self._remark, self._said = remark, set[tuple[object, ...]]()

    def tell(self, store: Store, drift: Drift) -> None:
        """Say what was not said yet."""
        new = [one for one in drift.alarms if (drift.model, drift.model_digest, one.quantity) not in self._said]
        self._said |= {(drift.model, drift.model_digest, one.quantity) for one in new}
        if new:
            self._remark(f"{drift.model} has drifted: {'; '.join(sentences(new))}; {CAUSES}")


class Drifts:
    """The route to drift, and its numbers.

    Args:
      observer: looks for it.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def listed(self, request: Request) -> Response:
        """Drift of the last state of each model that has decisions."""
        found = [record(drift) for drift in self._current().values()]
        return JSONResponse({"rate": RATE, "every": EVERY, "causes": CAUSES, "models": found})

    def gauges(self) -> dict[str, Mapping[Labels, float]]:
        """Of each model and kind, the highest capital of its quantities, and whether there is an alarm."""
        capital, alarm = dict[Labels, float](), dict[Labels, float]()
        for name, drift in self._current().items():
            for kind in KINDS:
                findings = [one for one in drift.findings if one.quantity.kind == kind]
                labels = ("kind", kind), ("model", name)
                capital[labels] = max(one.value for one in findings)
                alarm[labels] = float(any(one.alarm for one in findings))
        return {"padim_drift_capital": capital, "padim_drift_alarm": alarm}

    def _current(self) -> dict[str, Drift]:
        """Of each model, the state that decided last."""
        return {drift.model: drift for drift in sorted(self._observer.drifts, key=lambda one: one.last.sequence)}
