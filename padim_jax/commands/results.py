"""``padim results``."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

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
    abandon: str | None,
) -> None:
    """Do what ``padim results`` says it does."""
    with Store.open(store, create=False) as opened:
        if abandon is not None:
            _abandon(opened, abandon)
            return
        if out is not None:
            _refuse_live_table(opened, out)
        filters: dict[str, Any] = {"verdict": verdict, "model": model, "source": source, "since": since, "until": until}
        filters["corrected"] = corrected
        with wrong_use(but=(StoreError,)):
            if out is None:
                found = opened.decisions(**filters, limit=limit or _SHOWN, newest_first=True)
                _show(opened, found, opened.count(**filters))
                return
            if limit is not None:
                filters |= _newest(opened.decisions(**filters, limit=limit, newest_first=True))
            count = export(opened.decisions(**filters), out)
        tell(f"{out}: {count} decisions")


def _newest(found: Iterable[Decision]) -> dict[str, int]:
    """Between which sequences decisions lie that come the newest first; none of them is held."""
    first = last = None
    for decision in found:
        first, last = decision.sequence, last or decision.sequence
    return {"after": first - 1, "before": last + 1} if first and last else {"before": 0}


def _abandon(store: Store, output: str) -> None:
    if output not in (known := store.outbox.outputs()):
        names = ", ".join(map(repr, known)) or "none"
        raise click.UsageError(f"--abandon: {store.path} has no output {output!r}; its outputs are {names}")
    count = store.outbox.abandon(output)
    tell(f"{store.path}: {count} decisions that waited for {output} are given up")


def _refuse_live_table(store: Store, out: Path) -> None:
    """Refuse to replace a table that a watch adds to, which would go on in the new one with rows twice."""
    for name in store.outbox.outputs():
        kind, _, path = name.partition(" ")
        if kind == "table" and Path(path).resolve() == out.resolve():
            release = shlex.join(("padim", "results", str(store.path), "--abandon", name))
            raise click.UsageError(
                f"--out: padim watch --append adds to {out}; name another file, or release this one by: {release}"
            )


def _show(store: Store, found: Iterable[Decision], counts: Mapping[Verdict, int]) -> None:
    for decision in found:
        tell(describe(decision))
    tell(f"{store.path}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    for waiting in store.outbox.waiting():
        error = f" (last error: {waiting.error})" if waiting.error else ""
        say(f"{waiting.count} decisions wait to be handed on to {waiting.output}{error}")
    for last in store.seen.dropped(last=1):
        say(f"{store.seen.count_dropped()} images were dropped, the last one {last.item}: {last.reason}")


def describe(decision: Decision) -> str:
    """A decision on one line."""
    corrected = decision.correction
    verdict = decision.verdict if corrected is None else f"{decision.verdict}, corrected to {corrected.verdict}"
    numbers = "" if decision.score is None else f"  score {decision.score:.4g}, p = {decision.p_value:.3g}"
    reason = f"  ({decision.reason})" if decision.reason and not decision.reason.startswith("p = ") else ""
    by = "" if corrected is None else f"  [{corrected.who}{': ' * bool(corrected.note)}{corrected.note}]"
    return f"{decision.time}  {verdict:10}  {decision.item}{numbers}{reason}{by}"
