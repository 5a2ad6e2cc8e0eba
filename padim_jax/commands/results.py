"""``padim results``."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from padim_jax.commands.terminal import say, tell, wrong_use
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.schema import StoreError
from padim_jax.line.store import Store
from padim_jax.line.tables import export

_SHOWN = 20


def results_command(
    store: Path,
    verdict: Verdict | None,
    model: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
    corrected: bool | None,
    limit: int | None,
    out: Path | None,
) -> None:
    """Do what ``padim results`` says it does."""
    with Store.open(store, create=False) as opened:
        with wrong_use(but=(StoreError,)):
            found = opened.decisions(
                verdict=verdict,
                model=model,
                source=source,
                since=since,
                until=until,
                corrected=corrected,
                limit=limit if out else limit or _SHOWN,
                newest_first=out is None or limit is not None,
            )
        if out is None:
            _show(opened, found, model)
            return
        with wrong_use(but=(StoreError,)):
            count = export(found if limit is None else reversed(deque(found)), out)
        tell(f"{out}: {count} decisions")


def _show(store: Store, found: Iterable[Decision], model: str | None) -> None:
    for decision in found:
        tell(describe(decision))
    counts = store.count(model=model)
    tell(f"{store.path}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    for waiting in store.outbox.waiting():
        error = f" (last error: {waiting.error})" if waiting.error else ""
        say(f"{waiting.count} decisions wait to be handed on to {waiting.output}{error}")
    if dropped := store.seen.dropped():
        say(f"{len(dropped)} images were dropped, the last one {dropped[-1].item}: {dropped[-1].reason}")


def describe(decision: Decision) -> str:
    """A decision on one line."""
    corrected = decision.correction
    verdict = decision.verdict if corrected is None else f"{decision.verdict}, corrected to {corrected.verdict}"
    numbers = "" if decision.score is None else f"  score {decision.score:.4g}, p = {decision.p_value:.3g}"
    reason = f"  ({decision.reason})" if decision.reason and not decision.reason.startswith("p = ") else ""
    by = "" if corrected is None else f"  [{corrected.who}{': ' * bool(corrected.note)}{corrected.note}]"
    return f"{decision.time}  {verdict:10}  {decision.item}{numbers}{reason}{by}"
