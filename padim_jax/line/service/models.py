"""The models that a service has, by name; those used last are kept loaded within a budget of bytes."""

import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from padim_jax.artifact import resident_bytes
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.manifest import MANIFEST, read_manifest
from padim_jax.line.judge import Judge, Loaded
from padim_jax.line.records import Decision
from padim_jax.line.verdict import Rates

_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)  # of one model; RuntimeError: XLA's
_RETRY = 5.0  # seconds until a model that could not be loaded is tried again


class NoSuchModel(LookupError):
    """No model has this name; the message lists those that are there."""


@dataclass(frozen=True)
class ModelState:
    """What is known of a model.

    Attributes:
      name: of its folder.
      digest: SHA-256 of its manifest; None while it is not loaded.
      bad_up_to, look_up_to: p-values of its verdicts, as of :class:`padim_jax.line.verdict.Decider`; likewise.
      step: 1 / (n + 1) of its calibration; likewise.
      problem: why it can't be used; empty where it can.
    """

    name: str
    digest: str | None = None
    bad_up_to: float | None = None
    look_up_to: float | None = None
    step: float | None = None
    problem: str = ""


class Models:
    """Models in a folder, or one of them; one thread loads and uses them, any may ask for :meth:`states`.

    Names come from the folder, never from a request: a request's name is looked up among them.

    Args:
      path: a model, or a folder of models.
      budget: bytes that loaded models may take, their networks apart.
      rates: of the verdicts.
      batch_size: most images computed at once.
      remark: told what is worth knowing.

    Attributes:
      path, budget, rates: as given.

    Raises:
      ArtifactError: no model at all.
      OSError: the folder can't be looked at.
    """

    def __init__(
        self,
        path: Path,
        budget: int,
        rates: Rates,
        *,
        batch_size: int = 16,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self.budget, self.rates, self._batch_size, self._remark = path, budget, rates, batch_size, remark
        self._lock, self._loaded = threading.Lock(), OrderedDict[str, tuple[Judge, int]]()
        self._size = 0  # of the model that was loaded last
        self._problems = dict[str, str]()
        self._failed = dict[str, tuple[float, Exception]]()  # when a model could not be loaded, and why
        self._paths, self._away = dict[str, Path](), ""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._paths = self._find()
        if not self._paths:
            raise ArtifactError(f"serve: {path} is neither a model nor a folder of models (padim fit --out writes one)")

    @property
    def names(self) -> list[str]:
        """Of all models, in order."""
        return list(self._paths)

    @property
    def loaded(self) -> int:
        """How many are in memory."""
        return len(self._loaded)

    def states(self) -> list[ModelState]:
        """What is known of each, in the order of names."""
        with self._lock:
            return [self._state(name) for name in self._paths]

    def state(self, name: str) -> ModelState:
        """What is known of one.

        Raises:
          NoSuchModel: no such name.
        """
        with self._lock:
            self._check(name)
            return self._state(name)

    def current(self, name: str) -> Loaded | None:
        """The state of a model that is loaded; None where it is not.

        Raises:
          NoSuchModel: no such name.
        """
        with self._lock:
            self._check(name)
            return self._loaded[name][0].current if name in self._loaded else None

    def knows(self, decision: Decision) -> bool | None:
        """Whether the image of a decision is part of its model as it is now; None where the model is not loaded."""
        with self._lock:
            found = self._loaded.get(decision.model)
            return None if found is None else decision.image_digest in found[0].current.fitted_on.digests

    def holds(self, name: str, digest: str) -> bool | None:
        """Whether an image is part of a model as it is on disk; None where that can't be read.

        Args:
          name: of the model.
          digest: of the image.
        """
        try:
            images = read_manifest(self.folder(name)).get("images")
        except (NoSuchModel, ArtifactError, OSError):
            return None
        return digest in images if isinstance(images, dict) else None

    def check(self, name: str) -> None:
        """Make sure that there is a model of this name.

        Raises:
          NoSuchModel: no such name.
        """
        with self._lock:
            self._check(name)

    def folder(self, name: str) -> Path:
        """Where a model lies.

        Raises:
          NoSuchModel: no such name.
        """
        with self._lock:
            self._check(name)
            return self._paths[name]

    def load_all(self, is_closing: Callable[[], bool] = lambda: False) -> None:
        """Load and compile models in the order of names, as many as fit within the budget.

        Args:
          is_closing: asked before each model once one is loaded; the others are then left for whoever asks for them.

        Raises:
          ArtifactError: not one of them can be used.
        """
        for name in self.names:
            if self._loaded and is_closing():
                return
            with suppress(*_FORESEEN):  # noted
                with self._noting(name):
                    is_wanted = not self._loaded or self._held + resident_bytes(self._paths[name]) <= self.budget
                if is_wanted:
                    self.judge(name)
        if not self._loaded:
            reasons = "; ".join(dict.fromkeys(self._problems.values()))
            raise ArtifactError(f"serve: no model in {self.path} can be used: {reasons}")

    def judge(self, name: str) -> Judge:
        """What judges images by the model of this name, loaded and compiled if it is not.

        Others make room for it once it is loaded, so for that moment memory holds more than the budget. One that can't
        be loaded takes nobody's place, and is not tried again for some seconds.

        Raises:
          NoSuchModel: no such name.
          ValueError: it takes more than the budget, or gives no verdicts.
          ArtifactError, OSError: it can't be loaded.
        """
        self.check(name)
        if name not in self._loaded:
            since, error = self._failed.get(name, (0.0, None))
            if error is not None and time.monotonic() - since < _RETRY:
                raise error
            with self._noting(name):
                judge, size = self._load(name)
            with self._lock:
                self._make_room(size)
                self._loaded[name] = judge, size
                self._problems.pop(name, None)
                self._failed.pop(name, None)
        with self._lock:
            self._loaded.move_to_end(name)
            return self._loaded[name][0]

    def refresh(self) -> None:
        """Find models that came or went, and load those anew that were replaced.

        A folder that can't be looked at, or has no model at all, as where its drive is away, changes nothing.
        """
        paths = self._look()
        if not paths:
            return
        with self._lock:
            gone = [name for name in self._paths if name not in paths and name in self._loaded]
            # a manifest is away for no moment, so a model that is gone was moved or removed
            for name in gone:
                del self._loaded[name]
            self._paths = paths
        for name in gone:
            self._remark(f"the model {name} is not there any more")
        for name, (judge, _) in list(self._loaded.items()):
            if name in self._loaded and judge.refresh():  # one that was replaced may have pushed it out
                with self._lock:
                    self._loaded[name] = judge, self._size
                    self._make_room(0, but=name)

    def _look(self) -> dict[str, Path]:
        """Folders of models by name; none, with a word, where those in memory go on."""
        try:
            paths, away = self._find(), ""
        except OSError as error:
            paths, away = dict[str, Path](), f"can't be looked at ({error.strerror or error})"
        if not paths:
            away = away or "has no model any more"
        if away and away != self._away:
            self._remark(f"{self.path} {away}; the models in memory go on")
        self._away = away
        return paths

    def _make_room(self, size: int, but: str = "") -> None:
        for name in [name for name in self._loaded if name != but]:
            if self._held + size <= self.budget:
                return
            del self._loaded[name]

    def _load(self, name: str) -> tuple[Judge, int]:
        path = self._paths[name]
        options = {"batch_size": self._batch_size, "remark": self._remark, "admit": self._admit}
        judge = Judge(path, self.rates, **options)
        judge.warm_up()
        return judge, self._size

    def _admit(self, path: Path) -> None:
        self._size = resident_bytes(path)
        if self._size > self.budget:
            name, found, most = Path(os.path.abspath(path)).name, self._size / 1e6, self.budget / 1e6
            raise ValueError(
                f"serve: model {name!r} takes {found:.1f} MB, more than --memory, {most:.1f} MB; raise it, or padim "
                "compact the model"
            )

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Note why a model could not be loaded, and when."""
        try:
            yield
        except _FORESEEN as error:
            self._failed[name] = time.monotonic(), error
            self._note(name, str(error))
            raise

    @property
    def _held(self) -> int:
        return sum(size for _, size in self._loaded.values())

    def _check(self, name: str) -> None:
        if name not in self._paths:
            raise NoSuchModel(f"there is no model {name[:100]!r}; there are {', '.join(self._paths)}")

    def _state(self, name: str) -> ModelState:
        found = self._loaded.get(name)
        if found is None:
            return ModelState(name, problem=self._problems.get(name, ""))
        current = found[0].current
        decider = current.decider
        return ModelState(name, current.digest, decider.bad_up_to, decider.look_up_to, decider.step)

    def _note(self, name: str, problem: str) -> None:
        with self._lock:
            is_known = self._problems.get(name) == problem
            self._problems[name] = problem
        if not is_known:
            self._remark(f"{name} can't be used: {problem}")

    def _find(self) -> dict[str, Path]:
        """Folders of models by name.

        Raises:
          OSError: the folder can't be looked at.
        """
        own = Path(os.path.abspath(self.path)).name
        if self._is_model(own, self.path):
            return {own: self.path}
        folders = sorted(entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        return {folder.name: folder for folder in folders if self._is_model(folder.name, folder)}

    def _is_model(self, name: str, folder: Path) -> bool:
        """Whether a folder is a model; one that can't be looked at is if it was."""
        try:
            return stat.S_ISREG((folder / MANIFEST).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return name in self._paths
