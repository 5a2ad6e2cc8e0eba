"""``padim drift``."""

import json
from collections.abc import Iterator
from pathlib import Path

from padim_jax.commands.terminal import say, tell
from padim_jax.line.drift import Drift, find_drifts
from padim_jax.line.drift_words import CAUSES, MODELS, offer, record, sentences
from padim_jax.line.store import Store


def drift_command(
    store: Path, model: str | None, source: str | None, since: str | None, rate: float, as_json: bool
) -> None:
    """Do what ``padim drift`` says it does."""
    with Store.open(store, create=False) as opened:
        last = opened.last_deleted
        found = find_drifts(opened.scores(model=model, source=source, since=since), rate)
    if as_json:
        tell(json.dumps([record(drift) for drift in found]))
        return
    if last:
        say(f"{store}: begins after decision {last}, the last one that retention has deleted")
    for drift in found:
        for line in describe(drift):
            tell(line)
        if drift.pictured < drift.images:
            say(
                f"of {drift.images - drift.pictured} of these decisions only the score is known: an earlier version of "
                "padim recorded them"
            )
    if not found:
        say(f"{store} has no decisions with a score that were asked for")
    for drift in {drift.model: drift for drift in found if drift.alarms}.values():
        say(f"{CAUSES}; where what comes now is good, let {drift.model} get used to it, by one of:")
        for command in offer(drift).values():
            say(f"  {command}")
        say(f"where {MODELS} is the folder that {drift.model} lies in, and GOOD_IMAGES one of good images of now")


def describe(drift: Drift) -> Iterator[str]:
    """A result: a line for the source and the state of the model, and one for each change."""
    state = f"{drift.model} ({drift.model_digest[:12]}), {drift.source_name}, {drift.images} images: "
    if not drift.alarms:
        highest = max(finding.value for finding in drift.findings)
        yield f"{state}no drift; {highest:.3g} at most against, {1 / drift.rate:.3g} would be an alarm"
        return
    yield f"{state}drift"
    for sentence in sentences(drift.alarms):
        yield f"  {sentence}"
