"""``padim drift``."""

import json
from pathlib import Path

from padim_jax.commands.terminal import say, tell
from padim_jax.line.drift import Drift, find_drifts
from padim_jax.line.store import Store


def drift_command(store: Path, model: str | None, since: str | None, rate: float, as_json: bool) -> None:
    """Do what ``padim drift`` says it does."""
    with Store.open(store, create=False) as opened:
        last = opened.last_deleted
        found = find_drifts(opened.scores(model=model, since=since), rate)
    if as_json:
        tell(json.dumps([drift.record() for drift in found]))
        return
    if last:
        say(f"{store}: begins after decision {last}, the last one that retention has deleted")
    for drift in found:
        tell(describe(drift))
    if not found:
        say(f"{store} has no decisions with a score that were asked for")
    elif any(drift.alarm for drift in found):
        say("look at what has changed: camera, lens, light, fixture, material; then calibrate or update the model")


def describe(drift: Drift) -> str:
    """A result on one line."""
    state = f"{drift.model} ({drift.model_digest[:12]}), {drift.images} images: "
    if drift.alarm is None or drift.since is None:
        return f"{state}no drift; {drift.value:.3g} against, {1 / drift.rate:.3g} would be an alarm"
    where = f"since about {drift.since.time} (decision {drift.since.sequence})"
    seen = f"seen at {drift.alarm.time} (decision {drift.alarm.sequence})"
    direction = "higher" if drift.is_higher else "lower"
    return f"{state}scores have become {direction} {where}, {seen}; {drift.highest:.3g} against {1 / drift.rate:.3g}"
