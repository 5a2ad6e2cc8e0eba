"""``padim compact``."""

from pathlib import Path

import click

from padim_jax.artifact import Updatable, load_image_sizes, load_images, save_compacted
from padim_jax.artifact.arrays import disk_bytes
from padim_jax.artifact.compaction import Compacted, compact
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.ownership import locked
from padim_jax.baselines.manifest import refuse
from padim_jax.commands.calibrate import load_any
from padim_jax.commands.terminal import say, tell
from padim_jax.method.records import Padim


def compact_command(model: Path, out: Path, max_error: float) -> None:
    """Do what ``padim compact`` says it does."""
    refuse(model, "compact")
    check_writable(out)
    if out.resolve() == model.resolve():
        raise click.UsageError("--out is MODEL itself, which would lose what updating needs; choose another folder")
    if bound := read_manifest(model).get("max_error"):
        raise ValueError(
            f"compact: {model} was compacted before, with distances within {bound:.2g} of the exact ones, of which "
            "another bound would not know; compact the model that fit wrote"
        )
    with locked(out, "compact"):
        compacted = _compact_any(load_any(model), max_error)
        save_compacted(compacted, out, images=load_images(model), image_sizes=load_image_sizes(model))
    for form, size, error in compacted.tried:
        bound = "exact" if error == 0 else f"distances within {error:.2g}"
        say(f"{form:15} {size / 1e6:10.2f} MB  {bound}{'' if error <= max_error else ', not within --max-error'}")
    before, after = disk_bytes(model), disk_bytes(out)
    tell(
        f"{out}: {compacted.form}, distances within {compacted.max_error:.2g}; {after / 1e6:.2f} MB on disk instead of "
        f"{before / 1e6:.2f} MB ({1 - after / before:.0%} saved), backbone included"
    )


def _compact_any(stored: Updatable | Padim, max_error: float) -> Compacted:
    if not isinstance(stored, Updatable):
        return compact(stored, max_error, note=_say_form)
    # copies of an image do not raise the rank
    images = len(stored.images) or int(stored.moments.count)
    return compact(stored.model(), max_error, moments=stored.moments.moments, rank=images - 1, note=_say_form)


def _say_form(form: str) -> None:
    say(f"looking at {form} …")
