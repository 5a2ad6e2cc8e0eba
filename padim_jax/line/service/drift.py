"""Drift as the page and Prometheus see it: what was found at the last look."""

from collections.abc import Callable, Mapping

from padim_jax.lazy import extra
from padim_jax.line.drift import KINDS, RATE, Drift
from padim_jax.line.drift_words import CAUSES, record, sentences
from padim_jax.line.observer import EVERY, Observer
from padim_jax.line.schema import StoreError
from padim_jax.line.service.metrics import Labels
from padim_jax.line.service.replies import JSONResponse
from padim_jax.line.store import Store

with extra("serve"):
    from starlette.requests import Request
    from starlette.responses import Response

_TELLER = "serve"


class DriftNews:
    """Says what is new of drift: each change once, also after a restart, whatever a watch on the same store has told.

    It is marked in the store after it was said, so a process that dies in between says it once more.

    Args:
      remark: told in a sentence.
    """

    def __init__(self, remark: Callable[[str], None]) -> None:
        self._remark, self._said = remark, set[tuple[object, ...]]()

    def tell(self, store: Store, drift: Drift) -> None:
        """Say what was not said yet.

        Where it can't be marked, that is said too, and drift is looked for all the same.

        Raises:
          StoreError: what was said before can't be read.
        """
        whose = drift.model, drift.model_digest, drift.source
        known = {(*whose, one.quantity, one.number) for one in drift.alarms}
        if known <= self._said:  # also where retention has taken marks away together with decisions
            return
        untold = store.alarms.untold(_TELLER, drift)
        new = [one for one in untold if (*whose, one.quantity, one.number) not in self._said]
        self._said |= known
        if new:
            changes = "; ".join(sentences(new))
            self._remark(f"{drift.model} has drifted on images of {drift.source_name}: {changes}; {CAUSES}")
            try:
                store.alarms.mark(_TELLER, drift)
            except StoreError as error:
                self._remark(f"the next start says this of {drift.model} again, for it can't be noted: {error}")


class Drifts:
    """The route to drift, and its numbers.

    Args:
      observer: looks for it.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def listed(self, request: Request) -> Response:
        """Drift of each source of the last state of each model that has decisions, and when it was looked for."""
        found = [record(drift) for drift in self._current()]
        told = {"rate": RATE, "every": EVERY, "looked": self._observer.looked or None, "causes": CAUSES}
        return JSONResponse(told | {"models": found})

    def gauges(self) -> dict[str, Mapping[Labels, float]]:
        """Of each model, source and kind, the highest capital of its quantities, and how many alarms there were."""
        capital, alarm, changes = dict[Labels, float](), dict[Labels, float](), dict[Labels, float]()
        for drift in self._current():
            for kind in KINDS:
                findings = [one for one in drift.findings if one.quantity.kind == kind]
                labels: Labels = ("kind", kind), ("model", drift.model)
                if drift.source is not None:  # the other sources have no label, as one may be called as they are shown
                    labels = *labels, ("source", drift.source)
                capital[labels] = max(one.value for one in findings)
                changes[labels] = float(sum(len(one.alarms) for one in findings))
                alarm[labels] = float(changes[labels] > 0)
        return {"padim_drift_capital": capital, "padim_drift_alarm": alarm, "padim_drift_changes": changes}

    def _current(self) -> list[Drift]:
        """Of each model, the sources of the state that decided last, in the order of names."""
        found = sorted(self._observer.drifts, key=lambda one: one.last.sequence)
        states = {drift.model: drift.model_digest for drift in found}
        current = [drift for drift in found if drift.model_digest == states[drift.model]]
        return sorted(current, key=lambda one: (one.model, one.source is None, one.source_name))
