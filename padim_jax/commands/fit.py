"""``padim fit``."""

import time
from pathlib import Path
from typing import Any, get_args

import click

from padim_jax.artifact import check_writable, save
from padim_jax.backbones import BACKBONES, load_backbone
from padim_jax.commands.terminal import (
    Size,
    batch_option,
    debug_option,
    megabytes,
    note_ignored,
    progress_bar,
    say,
    wrong_use,
)
from padim_jax.config import Covariance, Interpolation, PadimConfig, Projection
from padim_jax.data import UnreadableImage, find_images
from padim_jax.embedding import draw_embedding
from padim_jax.files import fit_files


@click.command("fit")
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
@click.option(
    "--neighbourhood", type=int, default=1, show_default=True, help="Average activations over k x k cells; odd."
)
@click.option(
    "--covariance",
    type=click.Choice(get_args(Covariance)),
    default="ridge",
    show_default=True,
    help="Sample covariance + ε I, or shrunk at each position besides.",
)
@click.option(
    "--projection",
    type=click.Choice(get_args(Projection)),
    default="random-channels",
    show_default=True,
    help="How the taps' channels become d; principal components read the images twice.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that can't be read, and list them.")
@batch_option
@debug_option
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
    with wrong_use():
        config = PadimConfig(taps=taps or None, **settings)
        BACKBONES[backbone].select(config.taps)
    check_writable(out)  # now, not after an hour of fitting
    found = find_images([good_dir], exclude=out)
    note_ignored(found)
    with progress_bar("download", unit="MB") as advance:
        network = load_backbone(backbone, weights, progress=megabytes(advance))
    with wrong_use():
        embedding = draw_embedding(network, config)
    start = time.perf_counter()
    with progress_bar("fit", len(found.paths) * config.passes) as advance:
        try:
            model, skipped = fit_files(
                network, found.paths, config, batch_size=batch_size, skip_unreadable=skip_unreadable, advance=advance
            )
        except UnreadableImage as error:
            raise click.ClickException(f"{error} (mend or remove it, or pass --skip-unreadable)") from error
    seconds = time.perf_counter() - start
    save(model, out)
    for error in skipped:
        say(f"skipped {error.path}: {error.reason}")
    click.echo(
        f"{out}: {backbone}, {', '.join(embedding.taps)}, d = {embedding.dimension}; fitted on "
        f"{int(model.count)} images in {seconds:.1f} s" + (f", {len(skipped)} skipped" if skipped else "")
    )
