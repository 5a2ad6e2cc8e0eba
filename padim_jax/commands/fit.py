"""``padim fit``."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import click
import jax

from padim_jax import mesh as meshes
from padim_jax.artifact import Updatable, save_updatable
from padim_jax.backbones import BACKBONES, load_backbone
from padim_jax.commands.calibrate import (
    calibrated,
    calibration_options,
    describe_calibration,
    going_on,
    rates_of,
    stop_and_say,
)
from padim_jax.commands.fit_mesh import MeshOptions, fit_on_mesh, mesh_checkpoint, mesh_options
from padim_jax.commands.terminal import (
    Notes,
    Size,
    batch_option,
    debug_option,
    interruption,
    megabytes,
    note_ignored,
    progress_bar,
    roi_option,
    say,
    wrong_use,
)
from padim_jax.config import Covariance, Interpolation, PadimConfig, Precision, Projection, Resize
from padim_jax.data import find_images, find_value_range, read_roi_of
from padim_jax.embedding import Embedding, draw_embedding
from padim_jax.fitting import Checkpoint, Interrupted, fit_files, identity
from padim_jax.padim import finalize
from padim_jax.presets import preset
from padim_jax.scoring import with_roi
from padim_jax.storage import check_writable


def setting(name: str, kind: Any, about: str) -> Callable[[Any], Any]:
    """Option for a field of ``PadimConfig``; None where it was not given."""
    default = getattr(PadimConfig(), name)
    shown = "the backbone's" if default is None else str(default)
    return click.option(f"--{name.replace('_', '-')}", type=kind, show_default=shown, help=about)


@click.command("fit")
@click.argument("good_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@click.option("--preset", "preset_name", metavar="NAME", help="Settings by name; options given besides win.")
@click.option("--backbone", type=click.Choice(list(BACKBONES)), help="Network. Default: the preset's, or Lite0.")
@click.option(
    "--weights",
    type=str,
    help="Weights file (.pth, .safetensors), or 'random'. Default: embedded, or the publisher's file.",
)
@click.option("--tap", "taps", multiple=True, help="Layer to embed; repeat for several. Default: the backbone's.")
@setting("n_channels", int, "Dimension d of the embedding.")
@setting("ridge", float, "ε added to the covariance's diagonal.")
@setting("seed", int, "Of the random channel selection.")
@setting("image_size", Size(), "Resize images to this.")
@setting(
    "resize",
    click.Choice(get_args(Resize)),
    "Stretch to the image size; or keep the aspect: cover it and take the centre, or fit inside with black around.",
)
@setting("crop_size", Size(), "Then cut out the centre.")
@setting("sigma", float, "Blur of the map, in pixels.")
@setting("interpolation", click.Choice(get_args(Interpolation)), "Of images and maps; the paper's is bicubic.")
@setting("neighbourhood", int, "Average activations over k x k cells; odd.")
@setting(
    "covariance", click.Choice(get_args(Covariance)), "Sample covariance + ε I, or shrunk at each position besides."
)
@setting(
    "projection",
    click.Choice(get_args(Projection)),
    "How the taps' channels become d; principal components read the images twice.",
)
@setting(
    "precision",
    click.Choice(get_args(Precision)),
    "Of the backbone; bfloat16 is for GPUs and TPUs. Statistics are float32 in either.",
)
@click.option(
    "--value-range",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="Of images of more than 8 bits a channel: the values that become black and white. Default: found.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@roi_option
@click.option(
    "--calibrate/--no-calibrate",
    "wanted",
    default=True,
    show_default=True,
    help="Read the images again, for p-values and thresholds.",
)
@calibration_options
@click.option(
    "--checkpoint-every",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Keep what was done every N images. Default: when interrupted only.",
)
@mesh_options
@batch_option
@debug_option
def fit_command(
    good_dir: Path,
    out: Path,
    preset_name: str | None,
    backbone: str | None,
    weights: str | None,
    taps: tuple[str, ...],
    skip_unreadable: bool,
    roi: Path | None,
    wanted: bool,
    held_out: tuple[Path, ...],
    false_alarm_rate: float | None,
    pixel_rate: float | None,
    checkpoint_every: int,
    batch_size: int,
    **settings: Any,
) -> None:
    """Learn what is normal from GOOD_DIR, a folder of good images (searched recursively).

    The images are then read again, and each is scored by the model of all the others: that calibrates the model, so
    that new images get p-values and verdicts. The model can be updated, merged and made to forget; padim compact makes
    it smaller. A fit that was interrupted goes on where it was, by the same command.
    """
    mesh = MeshOptions(**{field.name: settings.pop(field.name) for field in fields(MeshOptions)}).mesh()
    with wrong_use():
        given = {name: value for name, value in settings.items() if value is not None}
        backbone, config = begin(preset_name, backbone)
        config = replace(config, **given, **({"taps": taps} if taps else {}))
        BACKBONES[backbone].select(config.taps)
    check_writable(out)  # now, not after an hour of fitting
    unfinished = out.with_name(f"{out.name}.unfinished")
    found = find_images([good_dir], exclude=out)
    note_ignored(found.ignored)
    config = _with_value_range(config, found.paths)
    others = find_images(held_out).paths if held_out else None
    region = None if roi is None else read_roi_of(roi, config, found.paths)
    with progress_bar("download", unit="MB") as advance:
        network = load_backbone(backbone, weights, progress=megabytes(advance))
    with wrong_use():
        embedding = draw_embedding(network, config)
    start = time.perf_counter()
    if mesh is None and mesh_checkpoint(out).exists():
        mesh = meshes.device_mesh(devices=jax.devices()[:1])
    if mesh is not None:
        done = fit_on_mesh(
            network,
            found.paths,
            config,
            mesh,
            out,
            region=region,
            others=others,
            wanted=wanted,
            rates=(false_alarm_rate, pixel_rate),
            skip_unreadable=skip_unreadable,
            checkpoint_every=checkpoint_every,
            batch_size=batch_size,
        )
        if done is not None:
            shared, known = done
            _say_fitted(out, embedding, len(found.paths) - len(shared.skipped), start, shared.skipped)
            describe_calibration(known)
        return
    checkpoint = Checkpoint(unfinished, identity(network, config, found.paths), checkpoint_every)
    if unfinished.exists() and checkpoint.read() is None:
        say(f"{unfinished} is of other files or settings; fitting from the start")
    notes = Notes()
    with interruption() as stopped, going_on():
        with progress_bar("fit", len(found.paths) * config.passes) as advance:
            folded = fit_files(
                network,
                found.paths,
                config,
                batch_size=batch_size,
                unreadable=(lambda error: None) if skip_unreadable else stop_and_say("--skip-unreadable"),
                note=notes,
                advance=advance,
                checkpoint=checkpoint,
                stopped=stopped,
            )
        model = with_roi(finalize(network, folded.moments), region)
        if wanted:
            rates = rates_of(None, false_alarm_rate, pixel_rate)
            fitted = [path for path in found.paths if str(path) not in folded.skipped]
            try:
                model = calibrated(model, fitted, folded.images, others, rates, batch_size, stopped)
            except Interrupted as error:
                checkpoint.write(network, folded)
                raise Interrupted(f"{error}; the fit is kept in {unfinished}") from error
    known, count = model.calibration, int(model.count)
    del model  # its factors take as much room as the moments, which are packed now
    save_updatable(Updatable(network, folded.moments, folded.images, known, region), out)
    checkpoint.remove()
    notes.say()
    _say_fitted(out, embedding, count, start, folded.skipped)
    describe_calibration(known)


def _say_fitted(out: Path, embedding: Embedding, count: int, start: float, skipped: Mapping[str, str]) -> None:
    for path, reason in skipped.items():
        say(f"skipped {path}: {reason}")
    click.echo(
        f"{out}: {embedding.backbone}, {', '.join(embedding.taps)}, d = {embedding.dimension}; fitted on "
        f"{count} images in {time.perf_counter() - start:.1f} s" + (f", {len(skipped)} skipped" if skipped else "")
    )


def _with_value_range(config: PadimConfig, paths: Sequence[Path]) -> PadimConfig:
    """Settings with the range of the files' values, where they have more than 8 bits and none was given."""
    if config.value_range is not None:
        return config
    with progress_bar("fit range", len(paths)) as advance:
        value_range = find_value_range(paths, advance=advance)
    if value_range is None:
        return config
    low, high = value_range
    say(
        f"images of more than 8 bits: values {low:.12g} to {high:.12g} are what this model takes, black to white; "
        "others are refused (--value-range sets the range)"
    )
    return replace(config, value_range=value_range)


def begin(name: str | None, backbone: str | None) -> tuple[str, PadimConfig]:
    """Backbone and settings to start from."""
    found = preset(name or "lite0")
    if name is not None and backbone not in (None, found.backbone):
        raise ValueError(f"--backbone {backbone} is not that of --preset {name}, {found.backbone}; give one of the two")
    if len(found.members) != 1:
        raise ValueError(f"--preset {name} sums the maps of {len(found.members)} models; it is there for evaluate only")
    return backbone or found.backbone, found.members[0]
