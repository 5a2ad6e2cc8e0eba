"""Take images out of a stored model, as if it had never been fitted on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from padim_jax.artifact import Updatable, note_change
from padim_jax.images.folder import digest_file
from padim_jax.method.fitting import forget
from padim_jax.runs.engines import Engine, OneDevice
from padim_jax.runs.fold import fold_files
from padim_jax.runs.records import Fold
from padim_jax.runs.watch import Watch

REFERENCE_STAYS = (
    "the reference that images are aligned to stays as it is, also where images that are taken out are part of it"
)


def forget_files(
    model: Updatable,
    paths: Sequence[Path],
    *,
    batch_size: int = 16,
    watch: Watch | None = None,
    engine: Engine | None = None,
) -> Updatable:
    """Take image files out of a stored model; what is left is not calibrated (:func:`recalibrate` does that).

    Args:
      model: as :func:`padim_jax.load_updatable` gives it.
      paths: image files that it was fitted on; one that is named twice goes twice.
      batch_size: images computed at once.
      watch: follows the work, in one stage, "forget".
      engine: where to compute the moments of these files. Default: the default device.

    Raises:
      UnreadableImage: the first file that can't be read.
      ValueError: a file that the model was not fitted on, or one that has faded by a half-life; as
        :func:`padim_jax.forget`.
      FloatingPointError: as :func:`padim_jax.forget`.
      Interrupted: ``watch`` has stopped it.
    """
    watch = watch or Watch()
    images = dict(model.images)
    for path in paths:
        digest = digest_file(path)
        if digest not in images:
            raise ValueError(f"forget: {path} is not among the images the model was fitted on; nothing was changed")
        if images[digest] != int(images[digest]):
            raise ValueError(f"forget: {path} has faded by a half-life and can't be taken out; fit anew without it")
        images[digest] -= 1
        if not images[digest]:
            del images[digest]
    # the very projection, reference and centres of the model, which other images would not give again
    config = model.moments.config
    projection = model.moments.projection if config.projection == "principal-components" else None
    engine = engine or OneDevice(model.backbone)
    components = model.moments.moments.components
    found: dict[str, Any] = {"projection": projection, "reference": model.moments.alignment}
    found |= {} if components is None else {"centres": components.centres}
    gone = Fold(engine.init(config, **found))
    with watch.progress("forget", len(paths)) as advance:
        quiet = Watch(note=watch.note, stopped=watch.stopped)
        fold_files(engine, gone, paths, batch_size, quiet, advance)
    return replace(
        model,
        moments=forget(model.moments, engine.local(engine.whole(gone.state))),
        images=images,
        calibration=None,
        standard=None,
        progress=note_change(model.progress, "made to forget"),
    )
