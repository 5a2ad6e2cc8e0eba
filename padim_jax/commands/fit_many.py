"""``padim fit-many``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jax

from padim_jax.artifact.ownership import LOCK, locked
from padim_jax.backbones import Backbone
from padim_jax.commands.settings import choose_settings, load_network
from padim_jax.commands.terminal import progress_bar, say, tell, wrong_use
from padim_jax.commands.watching import watching
from padim_jax.fleet import Job, Journal, Outcome, Terms, fit_many, read_jobs
from padim_jax.fleet.tables import LIST
from padim_jax.runs.recalibration import rates_of
from padim_jax.runs.tables import write_table


def fit_many_command(
    table: Path,
    out: Path,
    weights: str | None,
    skip_unreadable: bool,
    calibrate: bool,
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    trusted: bool,
    replace_changed: bool,
    devices: int | None,
    part: tuple[int, int],
    batch_size: int,
    **settings: Any,
) -> None:
    """Do what ``padim fit-many`` says it does."""
    with wrong_use():
        all_jobs = read_jobs(table)
        available = jax.local_devices()
        if devices is not None and devices > len(available):
            raise ValueError(f"--devices {devices}: this machine has {len(available)} ({available[0].platform})")
    jobs = all_jobs[part[0] - 1 :: part[1]]
    name, candidates = choose_settings(**settings)
    first = candidates[0]
    network = load_network(name, weights, first)
    rates = rates_of(None, false_alarm_rate, pixel_rate)
    several = candidates if len(candidates) > 1 else ()
    terms = Terms(first, batch_size, calibrate, *rates, skip_unreadable, replace_changed, trusted, several)
    with locked(out, "fit-many", f"{LOCK}-{part[0]}-of-{part[1]}"):
        _fit_all(network, all_jobs, jobs, terms, out, part, available[:devices])


def _fit_all(
    network: Backbone,
    all_jobs: Sequence[Job],
    jobs: Sequence[Job],
    terms: Terms,
    out: Path,
    part: tuple[int, int],
    devices: Sequence[Any],
) -> None:
    journal, counts = Journal(out, part), Counter[str]()
    try:
        with (
            watching("the same command goes on from there") as watch,
            progress_bar("fit", len(jobs), unit="models") as advance,
        ):
            outcomes = fit_many(
                network, jobs, terms, out, journal, devices=devices, note=watch.note, stopped=watch.stopped
            )
            for outcome in outcomes:
                counts[outcome.status] += 1
                for index, text in enumerate(outcome.notes):
                    kind = "not fitted" if outcome.status == "failed" and index == 0 else "note"
                    say(f"{kind}: {outcome.name}: {text}")
                advance(1)
    finally:
        _write_list(out / LIST, all_jobs, journal.last())
    tell(f"{out / LIST}: {counts['fitted']} fitted, {counts['kept']} there already, {counts['failed']} failed")
    if counts["failed"]:
        raise click.ClickException(f"{counts['failed']} of {len(jobs)} models failed; they are named above")


def _write_list(path: Path, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> None:
    """List the models of ``jobs`` that any run has tried to fit, in their order."""
    fields = ("name", "status", "images", "skipped", "threshold", "false_alarm_rate", "seconds", "notes")
    tried = [outcomes[job.name] for job in jobs if job.name in outcomes]
    rows = [[_cell(getattr(outcome, field)) for field in fields] for outcome in tried]
    write_table(path, ("model", *fields[1:]), rows)


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return "; ".join(value)
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else value
