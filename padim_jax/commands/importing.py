"""``padim import``."""

from pathlib import Path

from padim_jax.artifact import save
from padim_jax.artifact.anomalib import import_anomalib
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.ownership import locked
from padim_jax.commands.terminal import say, tell


def import_command(checkpoint: Path, out: Path, image_size: int | tuple[int, int] | None) -> None:
    """Do what ``padim import`` says it does."""
    check_writable(out)
    with locked(out, "import"):
        model = import_anomalib(checkpoint, image_size=image_size)
        save(model, out)
    height, width = model.config.image
    tell(
        f"{out}: {model.embedding.backbone}, layers {', '.join(model.embedding.taps)}, {model.embedding.dimension} "
        f"channels at {model.embedding.n_positions} positions, for images of {height}×{width}"
    )
    say(
        f"note: it has no thresholds yet: padim calibrate {out} GOOD_DIR finds them, on good images that anomalib did "
        "not fit it on (scores of those it knows are too low)"
    )
