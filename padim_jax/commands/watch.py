"""``padim watch``."""

from contextlib import ExitStack
from pathlib import Path

import click

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.baselines.manifest import refuse
from padim_jax.commands.line_sources import SourceOptions
from padim_jax.commands.results import describe
from padim_jax.commands.terminal import interruption, say, tell, wrong_use
from padim_jax.line.backlog import WhenFull
from padim_jax.line.judge import Judge
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.drift_events import EVENT, DriftEvents
from padim_jax.line.outputs.mqtt import Mqtt
from padim_jax.line.outputs.opcua import Opcua
from padim_jax.line.outputs.output import Output, refuse_twins
from padim_jax.line.outputs.table import Table
from padim_jax.line.outputs.webhook import Webhook
from padim_jax.line.records import VERDICTS, Verdict
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from padim_jax.line.watch import Limits, Summary, watch_line

_DAY = 86400.0
_ONE_EACH = "which takes one image of each part; of a video or a camera, --on-motion chooses these"


def watch_command(
    source: str,
    model: Path,
    store: Path,
    look_rate: float,
    false_alarm_rate: float | None,
    tables: tuple[Path, ...],
    bad_folder: Path | None,
    webhooks: tuple[str, ...],
    brokers: tuple[str, ...],
    servers: tuple[str, ...],
    notified: tuple[str, ...],
    once: bool,
    poll: float | None,
    quiet: bool,
    settle: float,
    every: float | None,
    on_motion: bool,
    motion_change: float | None,
    still: float | None,
    empty: Path | None,
    queue: int | None,
    when_full: WhenFull | None,
    keep_days: float | None,
    keep_size: int | None,
    batch_size: int,
) -> None:
    """Do what ``padim watch`` says it does."""
    images_of = SourceOptions(
        *(source, once, poll, settle, every, on_motion, motion_change, still, empty, queue, when_full)
    )
    images_of.check()
    _check_drift(images_of, notified, bool(webhooks or brokers))
    seconds = None if keep_days is None else keep_days * _DAY
    limits = Limits(*images_of.backlog(), max_seconds=seconds, max_bytes=keep_size)
    with ExitStack() as stack:
        with wrong_use(but=(OSError, ArtifactError)):
            refuse(model, "watch")
            judge = Judge(model, Rates(false_alarm_rate, look_rate), batch_size=batch_size, remark=say)
            opened = stack.enter_context(Store.open(store))
            images = images_of.open(opened.seen, judge.current.name)
            outputs: list[Output] = [Table(path) for path in tables]
            told: list[Verdict] = [verdict for verdict in VERDICTS if verdict in notified or not notified]
            outputs += [Webhook(url, told) for url in webhooks]
            outputs += [Mqtt(url, told) for url in brokers]
            outputs += [Opcua(url, told) for url in servers]
            if images_of.shows_parts_again:
                say(f"note: nobody looks for drift, {_ONE_EACH}")
            elif EVENT in notified or not notified:
                messengers = *map(Webhook, webhooks), *map(Mqtt, brokers)
                outputs += [DriftEvents(opened.alarms, messenger) for messenger in messengers]
            if bad_folder is not None:
                outputs.append(BadFolder(bad_folder, judge, say))
            refuse_twins(outputs)
        _note_left(opened, outputs)
        stopped = stack.enter_context(interruption())
        digest = judge.current.digest[:12]
        name = images.name if images_of.is_camera else source  # an address may hold a password
        summary = watch_line(
            images,
            judge,
            opened,
            outputs,
            limits=limits,
            looks_for_drift=not images_of.shows_parts_again,
            remark=say,
            told=lambda decision: None if quiet else tell(describe(decision)),
            ready=lambda: say(f"ready: {name} is judged by {model} ({digest}), decisions go to {store}"),
            stopped=stopped,
        )
    _report(summary, store)
    failed = summary.verdicts["unreadable"] + summary.dropped
    if failed and images_of.ends:
        raise click.ClickException(f"{failed} images could not be read or were dropped, and have no score")


def _check_drift(images_of: SourceOptions, notified: tuple[str, ...], has_messengers: bool) -> None:
    """Refuse to notify of drift where there is none to tell of, or nobody to tell.

    Raises:
      UsageError: saying why.
    """
    if EVENT in notified and images_of.shows_parts_again:
        raise click.UsageError(f"--notify {EVENT}: {_ONE_EACH}")
    if EVENT in notified and not has_messengers:
        raise click.UsageError(f"--notify {EVENT}: drift is sent by --webhook and --mqtt, and neither is given")


def _note_left(store: Store, outputs: list[Output]) -> None:
    """Say what waits for outputs that are not there this time."""
    names = {output.name for output in outputs}
    for waiting in store.outbox.waiting():
        if waiting.output not in names:
            say(f"note: {waiting.count} decisions wait for {waiting.output}, which is not among the outputs this time")


def _report(summary: Summary, store: Path) -> None:
    counts = ", ".join(f"{summary.verdicts[verdict]} {verdict}" for verdict in VERDICTS)
    dropped = f", {summary.dropped} dropped" if summary.dropped else ""
    known = f"; {summary.known} had their decision already" if summary.known else ""
    tell(f"{store}: {counts}{dropped}{known}")
