"""The command lines of the commands for life on a line."""

from pathlib import Path

import click

from padim_jax.commands.lazy_click import Command
from padim_jax.commands.options import RATE, Bytes, batch_option, debug_option

_VERDICTS = ("good", "look", "bad", "unreadable")
_store_argument = click.argument("store", type=click.Path(dir_okay=False, path_type=Path))
_store_option = click.option(
    "--store", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File that keeps the decisions."
)
_look_rate_option = click.option(
    "--look-rate",
    type=RATE,
    default=0.05,
    show_default=True,
    help="Share of good images that may be not called good.",
)
_false_alarm_rate_option = click.option(
    "--false-alarm-rate",
    type=RATE,
    help="Share of good images that may be called bad. Default: by the model's threshold.",
)


@click.command(
    "watch",
    cls=Command,
    example="padim watch camera/ --model bracket.padim --store line.db --append decisions.csv --bad-folder bad\n"
    "padim watch - --model bracket.padim --store line.db --webhook https://plc/part\n"
    "padim watch rtsp://camera/stream --model bracket.padim --store line.db --on-motion",
    place="padim_jax.commands.watch:watch_command",
)
@click.argument("source", type=str)
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The calibrated model that judges.")
@_store_option
@_look_rate_option
@_false_alarm_rate_option
@click.option(
    "--append",
    "tables",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add each decision to this file, .csv or .jsonl; repeat for several.",
)
@click.option(
    "--bad-folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for copies of bad images, and a picture of each.",
)
@click.option(
    "--webhook", "webhooks", multiple=True, metavar="URL", help="Send each decision as JSON to this address; repeat."
)
@click.option(
    "--mqtt", "brokers", multiple=True, metavar="URL", help="Publish each to a topic, mqtt://host/topic; repeat."
)
@click.option(
    "--opcua",
    "servers",
    multiple=True,
    metavar="URL",
    help="Write each to variables of a node, opc.tcp://host:4840/?node=ns=2;s=Padim; repeat.",
)
@click.option(
    "--notify",
    "notified",
    multiple=True,
    type=click.Choice((*_VERDICTS, "drift")),
    help="Send only decisions of this verdict, or drift; repeat for several. Default: all.",
)
@click.option("--once", is_flag=True, help="Judge what lies in SOURCE, and end.")
@click.option(
    "--poll",
    type=click.FloatRange(0.05),
    metavar="SECONDS",
    help="Look for new files this often, as on a network drive. Default: the system tells of them.",
)
@click.option("--quiet", is_flag=True, help="Print no line for each decision.")
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="Take a file that has not changed for so long as whole.",
)
@click.option(
    "--every",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Judge a frame this often; 0: each. Default: each of a video, one a second of a camera.",
)
@click.option("--on-motion", is_flag=True, help="Judge one frame of each part that has come and lies still.")
@click.option(
    "--motion-change",
    type=click.FloatRange(0, 255, min_open=True),
    metavar="LEVELS",
    help="Grey levels of 255 by which a part changes the picture. Default: 10.",
)
@click.option(
    "--still",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long a part has to lie still. Default: 0.3.",
)
@click.option(
    "--empty",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Image of the place without a part, which --on-motion passes over.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    metavar="N",
    help="Most images that wait. Default: 1000, or 32 frames.",
)
@click.option(
    "--when-full",
    type=click.Choice(("wait", "drop-oldest", "drop-newest")),
    help="What to do with one more image than may wait. Default: wait; drop-oldest of a camera.",
)
@click.option("--keep-days", type=click.FloatRange(0, min_open=True), help="Delete decisions older than this.")
@click.option("--keep-size", type=Bytes(), help="Delete the oldest decisions once the store is larger.")
@batch_option
@debug_option
def watch_command() -> None:
    """Judge images as they come to SOURCE, each once, and keep every decision in STORE.

    SOURCE is a folder that image files are written to, with those below it; - for paths on standard input, one a line;
    a video file; or a camera: rtsp://host/stream, http://host/stream.mjpg, or camera:0 for one that is plugged in. What
    lies in the folder already is judged first. A file is read once it is whole. Every image gets one of four verdicts:
    good, look (a person should), bad, or unreadable.

    Killed at any moment, the same command goes on where it was. Ctrl-C or SIGTERM finishes the images in hand, and
    ends. A model that is replaced on disk is used from then on. What --webhook, --mqtt and --opcua can't deliver
    waits in STORE.

    A folder needs the extra line, unless --poll or --once is given; videos and cameras need the extra video, --mqtt and
    --opcua the extras of these names.
    """


@click.command(
    "results",
    cls=Command,
    computes=False,
    example="padim results line.db --verdict bad --since 2026-01-31\npadim results line.db --out january.csv\n"
    'padim results line.db --abandon "webhook https://plc/part"',
    place="padim_jax.commands.results:results_command",
)
@_store_argument
@click.option("--verdict", type=click.Choice(_VERDICTS), help="Only decisions of this verdict.")
@click.option("--model", metavar="NAME", help="Only decisions by the model of this name.")
@click.option("--source", help="Only decisions on images of this source, as it was recorded.")
@click.option("--since", metavar="TIME", help="Only from this day or time on, such as 2026-01-31T13:45.")
@click.option("--until", metavar="TIME", help="Only before this day or time.")
@click.option(
    "--corrected/--not-corrected", default=None, help="Only decisions that a person corrected, or the others."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Only the newest N. Default: 20; all where --out is given."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write them to this file, .csv, .jsonl or .parquet, in their order, instead of printing them.",
)
@click.option("--abandon", metavar="OUTPUT", help="Give up what waits for the output of this name; show nothing.")
@debug_option
def results_command() -> None:
    """Show the decisions in STORE, which padim watch writes: the newest first, then how many there are of each verdict.

    Times without a zone are local; those in a store are UTC. What a person corrected shows both verdicts. What waits to
    be handed on, and images that were dropped, are named at the end.
    """


@click.command(
    "drift",
    cls=Command,
    computes=False,
    example="padim drift line.db --rate 0.001",
    place="padim_jax.commands.drift:drift_command",
)
@_store_argument
@click.option("--model", metavar="NAME", help="Only decisions by the model of this name.")
@click.option("--source", help="Only decisions on images of this source, as it was recorded.")
@click.option("--since", metavar="TIME", help="Only decisions from this day or time on.")
@click.option(
    "--rate",
    type=RATE,
    default=0.01,
    show_default=True,
    help="Probability that there is ever a false alarm for a source of a state of a model, at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead.")
@debug_option
def drift_command() -> None:
    """Say whether images have drifted, by model and source in STORE: in what, where, and since when.

    Each source, such as a camera or a folder, of each state of a model is looked at by itself. It follows what images
    score, how bright, rich in contrast and sharp they are, how the parts lie, and how high maps are at each place of
    the picture. It bets against a line that stays as it is, and says so once bets on one of these have won 1 / --rate:
    as long as nothing changes, that ever happens with a probability of at most --rate, for all that is followed of a
    source together. What has changed is then followed anew, so that another change, or the way back, is found too. It
    changes no model, and its exit code is 0 whether it finds drift or not; --json has has_drifted.

    The rate holds for one image of each part, in the order of the parts, and not for frames of a video or a camera that
    --on-motion has not chosen. It holds for one fixed beginning: it begins anew with --since, and after the last
    decision that --keep-days or --keep-size has deleted. A line that differs from the model's good images from the
    first decision on, and stays so, shows no drift.
    """


@click.command(
    "serve",
    cls=Command,
    example="padim serve bracket.padim --store line.db --keep-photos 1000\n"
    "padim serve models/ --store line.db --host 0.0.0.0 --token-file token --host-name line-pc",
    place="padim_jax.commands.serve:serve_command",
)
@click.argument("models", type=click.Path(path_type=Path))
@_store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others want --token-file.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 takes a free one."
)
@_look_rate_option
@_false_alarm_rate_option
@click.option(
    "--keep-photos",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep the photos of the last N decisions in STORE.photos, for the page to show.",
)
@click.option("--learn", is_flag=True, help="Let people change models from the page: learn photos, take images out.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients send as Authorization: Bearer TOKEN.",
)
@click.option("--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate for HTTPS, as PEM.")
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="The certificate's key, as PEM.")
@click.option(
    "--host-name", "host_names", multiple=True, help="Name that clients know this machine by; repeat for several."
)
@click.option(
    "--memory",
    type=Bytes(),
    default="4GB",
    show_default=True,
    help="Memory for loaded models; those not used for longest make room for others.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most images that wait; one more is refused with 503.",
)
@click.option("--max-body", type=Bytes(), default="64MB", show_default=True, help="Largest request.")
@click.option(
    "--max-in-hand",
    type=Bytes(),
    default="1GB",
    show_default=True,
    help="Most bytes of all requests that are received or wait; one more is refused with 503.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    default=50,
    show_default=True,
    help="Largest image, by what its header says.",
)
@click.option(
    "--receive-seconds",
    type=click.FloatRange(0, min_open=True),
    default=30,
    show_default=True,
    help="Seconds within which a request has to arrive whole, and its answer has to be taken.",
)
@click.option(
    "--client-rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Most requests a second of one client. Default: any.",
)
@batch_option
@debug_option
def serve_command() -> None:
    """Judge images that come over HTTP, keep every decision in STORE, and show them on a page.

    MODELS is a calibrated model, or a folder of them, each served by the name of its folder. POST an image, or several
    as the files of a form, to /models/NAME/score, and the decision comes back as JSON. The page at / shows decisions as
    they come and takes corrections. /docs lists what else there is. A model that is replaced on disk is used from then
    on. One line of JSON for each request goes to standard error. SIGTERM or Ctrl-C finishes the requests in hand.

    Needs the extra serve.
    """
