"""The ``padim`` command. The only module that prints and exits."""

import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from padim_jax.artifact import check_writable, load, save
from padim_jax.backbones import BACKBONES, load_backbone
from padim_jax.config import Interpolation, PadimConfig
from padim_jax.data import FoundImages, UnreadableImage, find_images
from padim_jax.data.folder import describe
from padim_jax.demo import demo_split
from padim_jax.embedding import draw_embedding
from padim_jax.files import (
    Advance,
    ResultSpool,
    common_folder,
    fit_files,
    heatmap_place,
    score_files,
    write_heatmap,
    write_scores,
)

DONE, FAILED, WRONG_USE = 0, 1, 2
_MARKER = ".written-by-padim"  # in a folder of heat maps: it may be replaced
_screen = Console(stderr=True, highlight=False, soft_wrap=True)


class Size(click.ParamType):
    """``224``, or ``224x320`` for height x width."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse; anything else is wrong use."""
        try:
            numbers = [int(part) for part in str(value).lower().split("x")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) < 1:
            self.fail(f"{value!r} is neither N nor HEIGHTxWIDTH in pixels", param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


_debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
_batch = click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images computed at once."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("padim-jax"), prog_name="padim")
@_debug
def app() -> None:
    r"""Find defects after seeing good parts only (PaDiM, arXiv 2011.08785).

    \b
      padim fit GOOD_DIR --out MODEL        learn from a folder of good images
      padim score MODEL PATH... --out DIR   score new images, with a heat map each
      padim demo                            both, on real solar cells

    Exit codes: 0 done, 1 failed, 2 wrong use.
    """


@app.command("fit")
@click.argument("good_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option(
    "--backbone", type=click.Choice(list(BACKBONES)), default="efficientnet_lite0", show_default=True, help="Network."
)
@click.option(
    "--weights",
    type=str,
    help="Weights file (.pth, .safetensors), or 'random'. Default: embedded, or the publisher's file.",
)
@click.option("--tap", "taps", multiple=True, help="Layer to embed; repeat for several. Default: the backbone's.")
@click.option("--n-channels", type=int, help="Dimension d of the embedding. Default: the backbone's.")
@click.option("--ridge", type=float, default=0.01, show_default=True, help="ε added to the covariance's diagonal.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random channel selection.")
@click.option("--image-size", type=Size(), default=256, show_default=True, help="Resize images to this.")
@click.option("--crop-size", type=Size(), default=224, show_default=True, help="Then cut out the centre.")
@click.option("--sigma", type=float, default=4.0, show_default=True, help="Blur of the map, in pixels.")
@click.option(
    "--interpolation",
    type=click.Choice(get_args(Interpolation)),
    default="bilinear",
    show_default=True,
    help="Of images and maps; the paper's is bicubic.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@_batch
@_debug
def fit_command(
    good_dir: Path,
    out: Path,
    backbone: str,
    weights: str | None,
    taps: tuple[str, ...],
    skip_unreadable: bool,
    batch_size: int,
    **settings: Any,
) -> None:
    """Learn what is normal from GOOD_DIR, a folder of good images (searched recursively)."""
    with _wrong_use():
        config = PadimConfig(taps=taps or None, **settings)
        BACKBONES[backbone].select(config.taps)
    check_writable(out)  # now, not after an hour of fitting
    found = find_images([good_dir], exclude=out)
    _note_ignored(found)
    with _progress("download", unit="MB") as advance:
        network = load_backbone(backbone, weights, progress=_megabytes(advance))
    with _wrong_use():
        embedding = draw_embedding(network, config)
    start = time.perf_counter()
    with _progress("fit", len(found.paths)) as advance:
        try:
            model, skipped = fit_files(
                network, found.paths, config, batch_size=batch_size, skip_unreadable=skip_unreadable, advance=advance
            )
        except UnreadableImage as error:
            raise click.ClickException(f"{error} (mend or remove it, or pass --skip-unreadable)") from error
    seconds = time.perf_counter() - start
    save(model, out)
    for error in skipped:
        _say(f"skipped {error.path}: {error.reason}")
    click.echo(
        f"{out}: {backbone}, {', '.join(embedding.taps)}, d = {embedding.dimension}; fitted on "
        f"{int(model.count)} images in {seconds:.1f} s" + (f", {len(skipped)} skipped" if skipped else "")
    )


@app.command("score")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results.")
@click.option("--heatmaps/--no-heatmaps", default=True, show_default=True, help="Write a picture for each image.")
@click.option(
    "--colour-range",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="Distances at the ends of the colour scale. Default: the run's median to its highest score.",
)
@_batch
@_debug
def score_command(
    model: Path,
    paths: tuple[Path, ...],
    out: Path,
    heatmaps: bool,
    colour_range: tuple[float, float] | None,
    batch_size: int,
) -> None:
    """Score images, or folders of them, with MODEL.

    Writes DIR/scores.csv (path, score; a higher score is further from normal) and DIR/heatmaps/, in place of those
    of an earlier run. All heat maps of a run share one colour scale. Files that can't be read are named, get no
    score, and make the exit code 1.
    """
    if colour_range is not None and not -inf < colour_range[0] < colour_range[1] < inf:
        raise click.UsageError(f"--colour-range {colour_range[0]:g} {colour_range[1]:g}: LOW must be below HIGH")
    found = find_images(paths, exclude=out)
    if inside := [path for path in found.paths if os.path.abspath(path).startswith(os.path.abspath(out) + os.sep)]:
        raise click.UsageError(f"--out {out} holds images to score ({inside[0]}); choose another folder")
    pictures = out / "heatmaps"
    if heatmaps and pictures.exists() and not (pictures / _MARKER).exists():
        raise click.UsageError(f"{pictures} is there already and not ours to replace; choose another --out")
    _note_ignored(found)
    fitted = load(model)
    out.mkdir(parents=True, exist_ok=True)
    unreadable: list[UnreadableImage] = []
    with closing(ResultSpool(out)) as spool:
        scored: list[tuple[Path, float]] = []
        with _progress("score", len(found.paths)) as advance:
            for item in score_files(
                fitted, found.paths, batch_size=batch_size, unreadable=unreadable.append, advance=advance
            ):
                scored.append((item.path, item.score))
                if heatmaps:
                    spool.add(item)
        write_scores(out / "scores.csv", scored)
        if heatmaps and scored:
            _draw(spool, pictures, common_folder(found.paths), colour_range or spool.scale(), len(scored))
    for error in unreadable:
        _say(f"not scored: {error.path}: {error.reason}")
    for path, value in sorted(scored, key=lambda row: -row[1])[:5]:
        click.echo(f"{value:10.3f}  {path}")
    click.echo(f"{out / 'scores.csv'}: {len(scored)} scored, {len(unreadable)} unreadable; highest scores above")
    if unreadable:
        raise click.ClickException(f"{len(unreadable)} of {len(found.paths)} files could not be read and have no score")


@app.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("padim-demo"),
    show_default=True,
    help="Folder for the model and the pictures.",
)
@_batch
@_debug
def demo_command(out: Path, batch_size: int) -> None:
    """Fit and score real solar cells (the ELPV data set), no download beyond pip.

    Learns from good monocrystalline cells, scores held-out good ones against defective ones, prints the
    image AUROC, and writes heat maps of the best and worst finds.
    """
    split = demo_split()
    from sklearn.metrics import roc_auc_score  # comes with the demo extra

    check_writable(out / "model")
    network, config = load_backbone("efficientnet_lite0"), PadimConfig()
    with _progress("fit", len(split.fit)) as advance:
        model, _ = fit_files(network, split.fit, config, batch_size=batch_size, advance=advance)
    save(model, out / "model")

    paths = [*split.good, *split.defective]
    scores: dict[Path, float] = {}
    with closing(ResultSpool(out)) as spool:
        with _progress("score", len(paths)) as advance:
            for item in score_files(model, paths, batch_size=batch_size, advance=advance):
                scores[item.path] = item.score
                spool.add(item)
        auroc = roc_auc_score([path in split.defective for path in scores], list(scores.values()))
        falling = sorted(scores, key=lambda path: -scores[path])
        kinds = {
            "best-finds": [path for path in falling if path in split.defective][:6],
            "missed": [path for path in reversed(falling) if path in split.defective][:6],
            "false-alarms": [path for path in falling if path in split.good][:6],
        }
        scale = spool.scale()
        for item in spool:
            for kind, chosen in kinds.items():
                if item.path in chosen:
                    write_heatmap(out / kind / f"{chosen.index(item.path) + 1}-{item.path.name}", item, scale)
    counts = len(split.fit), len(split.good), len(split.defective)
    click.echo("fitted on {} good cells; scored {} good and {} defective ones".format(*counts))
    click.echo(f"image AUROC {auroc:.3f}")
    click.echo(f"{out}: model, and heat maps of best finds, missed defects and false alarms")


def _draw(spool: ResultSpool, folder: Path, root: Path, scale: tuple[float, float], count: int) -> None:
    """Write all heat maps beside ``folder``, then put them in place of an earlier run's."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        fresh.mkdir()
        (fresh / _MARKER).touch()
        with _progress("heat maps", count) as advance:
            for item in spool:
                write_heatmap(fresh / heatmap_place(item.path, root), item, scale)
                advance(1)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _wrong_use() -> Iterator[None]:
    """Turn a ``ValueError`` about what the user typed into wrong use, exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def _progress(what: str, total: int | None = None, unit: str = "images") -> Iterator[Advance]:
    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    progress = Progress(*columns, TimeRemainingColumn(), console=_screen)
    task = progress.add_task(what, total=total, rate="")
    start = time.perf_counter()

    def advance(count: int) -> None:
        progress.start()
        done = progress.tasks[task].completed + count
        rate = done / max(time.perf_counter() - start, 1e-9)
        progress.update(task, advance=count, rate=f"{rate:.1f} {unit}/s")

    if total is not None:  # what may not be needed at all shows only once it moves
        progress.start()
    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()


def _megabytes(advance: Advance) -> Callable[[str, int, int], None]:
    shown = 0

    def progress(_: str, received: int, __: int) -> None:
        nonlocal shown
        advance((received >> 20) - shown)
        shown = received >> 20

    return progress


def _note_ignored(found: FoundImages) -> None:
    if found.ignored:
        _say(f"ignored files that are not images: {describe(found.ignored)}")


def _say(text: str) -> None:
    # a newline in a file name must not break the line
    _screen.print("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; errors take one line, ``--debug`` adds the traceback. Gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's warnings; what matters comes as an error
    fail = partial(_fail, "--debug" in given)
    try:
        app.main(args=given, prog_name="padim", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return WRONG_USE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "padim"
        return fail(f"{command}: {error.format_message()} (see {command} --help)", WRONG_USE)
    except click.ClickException as error:
        return fail(error.format_message(), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", FAILED)
    except (ValueError, OSError, ArithmeticError, ImportError, MemoryError) as error:
        return fail(str(error) or type(error).__name__, FAILED)
    except Exception as error:  # a defect of ours must not greet a user with a traceback either
        return fail(f"internal error, {type(error).__name__}: {error} (--debug shows where)", FAILED)
    return DONE


def _fail(debug: bool, message: str, code: int) -> int:
    if debug:
        traceback.print_exc()
    first, *more = message.split("\n  ")  # an error that lists entries indents them
    _say(f"padim: error: {first}" + (f" … and {len(more)} more lines (--debug shows them)" if more else ""))
    return code


if __name__ == "__main__":
    sys.exit(main())
