"""Where an unfinished fit is kept: a model that can be updated, with what the fit has to remember to go on."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from padim_jax.artifact import Updatable, load_updatable
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.ownership import is_ours
from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.method.records import PadimMoments
from padim_jax.runs.engines import Engine
from padim_jax.runs.records import Fold


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished fit is kept, and what it must be a fit of to go on, on as many devices as there are then.

    Attributes:
      folder: of the checkpoint, which all processes can read.
      identity: of files and settings.
      every: images after which it is written anew; 0 for interruptions only.
    """

    folder: Path
    identity: str
    every: int = 0

    def check(self) -> None:
        """Raise ``FileExistsError`` where something lies in the folder's place that is no unfinished fit of ours."""
        if self.folder.is_symlink() or (self.folder.exists() and not (self._is_ours() or _is_empty(self.folder))):
            raise FileExistsError(
                f"fit: {self.folder}, where an unfinished fit would be kept, already exists and is none of padim's; "
                "move it away, or choose another name for the model"
            )

    def write(self, engine: Engine, fold: Fold, moments: PadimMoments) -> None:
        """Replace what is kept, in one step; all processes call it at the same step.

        Args:
          engine: where the fit runs.
          fold: how far it has come; its state is not looked at.
          moments: its moments, as the engine gives them.
        """
        if jax.process_index() == 0:
            self.check()
        progress = {"identity": self.identity, "done": fold.done, "skipped": fold.skipped}
        sizes = fold.image_sizes
        engine.save(Updatable(engine.backbone, moments, fold.images, progress=progress, image_sizes=sizes), self.folder)

    def read(self, engine: Engine) -> Fold | None:
        """What an earlier, unfinished fit of the same files and settings has kept; None where there is none."""
        if not self.folder.exists():
            return None
        try:
            stored = load_updatable(self.folder)
        except ArtifactError:
            return None
        progress = stored.progress or {}
        if progress.get("identity") != self.identity:
            return None
        return Fold(
            engine.place(stored.moments),
            dict(stored.images),
            int(progress["done"]),
            dict(progress["skipped"]),
            dict.fromkeys(stored.image_sizes),
        )

    def remove(self) -> None:
        """Forget it, once the model is saved; nothing is removed that is not ours, or with anything else in it."""
        if jax.process_index() > 0:
            return
        with suppress(ArtifactError):
            check_writable(self.folder)
            if self._is_ours() and not self.folder.is_symlink():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ours(self) -> bool:
        try:
            progress = read_manifest(self.folder).get("progress")
        except ArtifactError:
            return is_ours(self.folder)  # killed while it was written for the first time
        return isinstance(progress, dict) and {"identity", "done", "skipped"} <= progress.keys()


def checkpoint_folder(out: Path) -> Path:
    """Where an unfinished fit of the model ``out`` is kept."""
    return out.with_name(f"{out.name}.unfinished")


def identity(backbone: Backbone, config: PadimConfig, paths: Sequence[Path]) -> str:
    """Digest of everything a fit's moments depend on: weights, settings, the files' names, sizes and times."""
    files = [(os.path.abspath(path), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()]]
    content = json.dumps([backbone.weights_digest, asdict(config), files])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None
