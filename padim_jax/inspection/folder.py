"""Likely mistakes among good images: what files say of themselves, how parts lie, and which score high."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from padim_jax.artifact import Updatable
from padim_jax.images import FoundImages, UnreadableImage, find_images
from padim_jax.images.decode import FilePath
from padim_jax.images.survey import ImageFacts, Oddity, find_duplicates, find_equal_pixels, find_oddities, survey
from padim_jax.inspection.poses import PartPoses, find_poses
from padim_jax.inspection.suspects import LeaveOneOut, leave_one_out
from padim_jax.runs.tables import write_table
from padim_jax.runs.watch import Watch

PROPERTIES: Mapping[str, Callable[[ImageFacts], str]] = {
    "sizes": lambda image: "×".join(map(str, image.size)),
    "channels": lambda image: image.mode,
    "bits a channel": lambda image: str(image.bits),
    "file formats": lambda image: image.format,
}


@dataclass(frozen=True)
class FolderInspection:
    """What there is to say about a folder of images.

    Attributes:
      decoded: whether pixels were looked at, and not the files' headers alone.
      images: facts of each file that can be read.
      ignored: how many other files there are, by suffix.
      unreadable: files that can't be read.
      duplicates: groups of files with the same content.
      equal_pixels: groups of files of different content with the same pixels.
      oddities: images that differ from what most are.
      leave_one_out: scores; None where pixels were not looked at.
      poses: how far parts are shifted and turned; None where pixels were not looked at.
    """

    decoded: bool
    images: tuple[ImageFacts, ...]
    ignored: Mapping[str, int]
    unreadable: tuple[UnreadableImage, ...]
    duplicates: list[list[Path]]
    equal_pixels: list[list[Path]]
    oddities: list[Oddity]
    leave_one_out: LeaveOneOut | None
    poses: PartPoses | None = None

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "decoded": self.decoded,
            "counts": {
                "images": len(self.images),
                "unreadable": len(self.unreadable),
                "ignored": sum(self.ignored.values()),
                **{name: dict(Counter(map(value, self.images)).most_common()) for name, value in PROPERTIES.items()},
            },
            "ignored": dict(self.ignored),
            "unreadable": [{"path": str(error.path), "reason": error.reason} for error in self.unreadable],
            "duplicates": [[str(path) for path in group] for group in self.duplicates],
            "equal_pixels": [[str(path) for path in group] for group in self.equal_pixels],
            "oddities": [
                {
                    "what": oddity.what,
                    "common": oddity.common,
                    "images": {str(path): value for path, value in oddity.paths.items()},
                }
                for oddity in self.oddities
            ],
            "leave_one_out": None if self.leave_one_out is None else self.leave_one_out.record(),
            "poses": None if self.poses is None else self.poses.record(),
            "images": [{**asdict(image), "path": str(image.path)} for image in self.images],
        }

    def write(self, folder: Path) -> None:
        """Write ``images.csv``, a row for each image, and ``suspects.png``, the highest scores, into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = ("path", "format", "mode", "bits", "frames", "digest", "pixel_digest")
        scores = ("score", "p_value", "row", "column", "left_out", "stands_out")
        suspects = {} if self.leave_one_out is None else {row.path: row for row in self.leave_one_out.suspects}
        write_table(
            folder / "images.csv",
            (*facts, "width", "height", "notes", *scores),
            [
                (
                    *(getattr(image, name) for name in facts),
                    *image.size,
                    "; ".join(image.notes),
                    *(getattr(suspects.get(image.path), name, "") for name in scores),
                )
                for image in self.images
            ],
        )
        if suspects and self.leave_one_out is not None:
            self.leave_one_out.draw().save(folder / "suspects.png")


def inspect_folder(
    folder: FilePath | FoundImages,
    model: Updatable | None = None,
    *,
    name: str = "the model given",
    quick: bool = False,
    batch_size: int = 16,
    watch: Watch | None = None,
) -> FolderInspection:
    """Look for mistakes among good images: duplicates, files unlike the others, images that score high, moved parts.

    Args:
      folder: of images, or those that were found.
      model: whose leave-one-out scores are taken; it has to list its images. None fits the preset lite0 here.
      name: of ``model``, in the result.
      quick: read the files' headers alone; nothing is scored.
      batch_size: images computed at once.
      watch: follows the work, in stages "look", "align", "fit" and "score"; files that can't be read are in the result.

    Raises:
      FileNotFoundError, ValueError: as :func:`padim_jax.images.find_images`; a model that lists no images.
    """
    watch = watch or Watch()
    if model is not None and not model.images:
        raise ValueError("inspect_folder: the model does not list the images it was fitted on; leave it out")
    files = folder if isinstance(folder, FoundImages) else find_images([folder])
    unreadable: list[UnreadableImage] = []
    with watch.progress("look", len(files.paths)) as advance:
        images = tuple(survey(files.paths, unreadable.append, decode=not quick, advance=advance))
    return FolderInspection(
        decoded=not quick,
        images=images,
        ignored=files.ignored,
        unreadable=tuple(unreadable),
        duplicates=find_duplicates(images),
        equal_pixels=find_equal_pixels(images),
        oddities=find_oddities(images),
        poses=None if quick else find_poses(images, batch_size=batch_size, watch=watch),
        leave_one_out=None if quick else leave_one_out(images, model, name, batch_size=batch_size, watch=watch),
    )
