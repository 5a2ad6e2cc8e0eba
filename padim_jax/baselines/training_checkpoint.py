"""Where an unfinished training is kept: a folder written whole or not at all, from which it goes on."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array

from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.folder import check_writable, write
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.ownership import is_ours
from padim_jax.artifact.stored import StoredArrays
from padim_jax.baselines.trained_settings import TrainedSettings
from padim_jax.config.rules import is_int, is_number

FORMAT = "padim_jax training"
T = TypeVar("T")


class TrainingStopped(Exception):
    """A training that was asked to stop; the message says what was kept, and how to go on."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come, beside the state of its steps.

    Attributes:
      best: parameters of the look with the lowest loss; empty where no images are held out.
      history: rows of :class:`padim_jax.baselines.records.TrainedModel`.
      step: how many are done.
      waited: how many looks ago the loss was lowest.
      best_loss: the lowest loss; None before the first look.
    """

    best: Mapping[str, Array]
    history: list[list[float]]
    step: int
    waited: int
    best_loss: float | None

    def is_over(self, steps: int, patience: int) -> bool:
        """Whether all steps are done, or the loss has not fallen for ``patience`` looks."""
        return self.step >= steps or self.waited >= patience


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Where an unfinished training is kept; the same images and settings go on from it, others begin anew.

    Attributes:
      folder: of the checkpoint; new, empty, or a checkpoint.
      every: steps after which it is written anew; 0 for interruptions and the end only.

    >>> from padim_jax import baselines
    >>> method = baselines.method("ae")
    >>> settings = method.settings(config=baselines.shared_settings(config, method.settings), width=4, steps=10)
    >>> checkpoint = baselines.TrainingCheckpoint(folder / "bracket.unfinished")
    >>> model = method.fit(None, [good_images], settings, host=baselines.TrainingHost(checkpoint))
    >>> baselines.save(model, folder / "bracket")
    >>> checkpoint.remove()
    """

    folder: str | os.PathLike[str]
    every: int = 100

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    def is_due(self, step: int) -> bool:
        """Whether it is to be written after so many steps."""
        return self.every > 0 and step % self.every == 0

    def identity(self, settings: TrainedSettings, images: str) -> str:
        """Digest of all that a training depends on; ``images`` is that of its images."""
        content = json.dumps([settings.method, dataclasses.asdict(settings), images])
        return hashlib.sha256(content.encode()).hexdigest()

    def write(self, identity: str, state: Any, progress: Progress) -> None:
        """Replace what is kept, in one step.

        Raises:
          ArtifactError: the folder is a file, or holds something else.
          FolderInUse: another process is writing it.
          OSError: it can't be written; what was kept is left as it was.
        """
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        counts = {str(index): int(leaf) for index, leaf in enumerate(leaves) if leaf.dtype == np.int32}
        arrays = {f"state.{index}": leaf for index, leaf in enumerate(leaves) if str(index) not in counts}
        arrays |= {f"best.{path}": np.asarray(leaf) for path, leaf in progress.best.items()}
        kept = {
            name: getattr(progress, name) for name in ("history", "step", "waited", "best_loss")
        }  # floats come back from JSON as they were
        write(self.path, {"format": FORMAT, "identity": identity, "progress": kept, "counts": counts}, arrays)

    def read(
        self, identity: str, state: T, parameters: Mapping[str, Array], note: Callable[[str], None]
    ) -> tuple[T, Progress] | None:
        """What an earlier, unfinished training of the same images and settings has kept; None where there is none.

        Args:
          identity: from :meth:`identity`.
          state: of a training that begins, whose arrays have the shapes that are wanted.
          parameters: likewise.
          note: told that training goes on, or why it does not.

        Raises:
          ArtifactError: the folder is a file, or holds something else.
        """
        check_writable(self.path, FORMAT)
        if not self.path.exists() or not any(self.path.iterdir()):
            return None
        try:
            manifest = read_manifest(self.path, FORMAT)
            if manifest.get("identity") != identity:
                note(f"{self.path} is of other images or settings; training begins anew")
                return None
            found = self._restore(manifest, state, parameters)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            note(f"{self.path} can't be read ({error}); training begins anew")
            return None
        note(f"training goes on from {self.path}, after step {found[1].step}")
        return found

    def _restore(self, manifest: Mapping[str, Any], state: T, parameters: Mapping[str, Array]) -> tuple[T, Progress]:
        arrays, counts = StoredArrays(self.path, manifest).arrays(), manifest["counts"]
        leaves, structure = jax.tree.flatten(state)
        found = [
            np.asarray(counts[str(index)], np.int32) if str(index) in counts else arrays[f"state.{index}"]
            for index in range(len(leaves))
        ]
        kept = Progress({}, **manifest["progress"])
        _check_progress(kept)
        best = {path: arrays[f"best.{path}"] for path in parameters} if kept.best_loss is not None else {}
        wanted = [*leaves, *(parameters[path] for path in best)]
        for leaf, stored in zip(wanted, [*found, *best.values()], strict=True):
            if (leaf.shape, leaf.dtype) != (stored.shape, stored.dtype):
                raise ValueError(f"an array is {stored.dtype} {stored.shape}, wanted {leaf.dtype} {leaf.shape}")
        on_device, best = jax.device_put((found, best))
        return jax.tree.unflatten(structure, on_device), dataclasses.replace(kept, best=best)

    def remove(self) -> None:
        """Forget it, once the model is saved; nothing is removed that is not ours, or with anything else in it."""
        with suppress(ArtifactError):
            check_writable(self.path, FORMAT)
            if not is_ours(self.path):  # else it was killed while it was written for the first time
                read_manifest(self.path, FORMAT)
            if not self.path.is_symlink():
                shutil.rmtree(self.path, ignore_errors=True)


def _check_progress(kept: Progress) -> None:
    """Raise ``ValueError`` where the manifest holds something else than numbers."""
    rows = kept.history
    is_table = isinstance(rows, list) and all(isinstance(row, list) and all(map(is_number, row)) for row in rows)
    is_progress = is_table and len({len(row) for row in rows} - {2, 3}) == 0 and len({len(row) for row in rows}) <= 1
    counts = is_int(kept.step) and is_int(kept.waited) and min(kept.step, kept.waited) >= 0
    if not (is_progress and counts and (kept.best_loss is None or is_number(kept.best_loss))):
        raise ValueError("its progress is not made of numbers")
