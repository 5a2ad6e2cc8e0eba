"""A model that judges images as they come, and is replaced when its folder is.

A watch on a folder and a server use the same :class:`Judge`: it loads a model, compiles its programs before the first
image comes, reads images, and gives each a verdict. When another model takes the place of the one on disk, by a fit, an
update, a calibration or an undo, the next images are judged by that one. A model that can't be loaded changes nothing:
the one in memory goes on, and what is wrong is told.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from padim_jax.artifact import load
from padim_jax.artifact.manifest import MANIFEST, manifest_checksum, read_manifest
from padim_jax.images import Batch, UnreadableImage
from padim_jax.images.ahead import CORES
from padim_jax.images.decode import open_image, read_file
from padim_jax.images.folder import digest_of
from padim_jax.images.image import centre_crop, resize
from padim_jax.line.appearance import Appearance, complete, measure
from padim_jax.line.records import Decision
from padim_jax.line.verdict import Decider, Rates
from padim_jax.method.records import Padim
from padim_jax.method.scoring import check_standard
from padim_jax.runs.copies import pixels_digest
from padim_jax.runs.regions import Region, RegionSearch
from padim_jax.runs.score import FittedOn, ScoredImage, score_batches

_FORESEEN = (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError)  # of loading a model; RuntimeError: XLA's
_RETRY = 5.0  # seconds until a model that could not be loaded is tried again


@dataclass(frozen=True)
class Photo:
    """An image to be judged.

    Attributes:
      source, item, stamp: as :class:`padim_jax.line.records.Decision` has them.
      path: its file; of an image that is none, a name for messages.
      content: the bytes of an image file; None for those at ``path``.
      pixels: RGB, of a frame, which is no file.
    """

    source: str
    item: str
    path: Path
    stamp: str = ""
    content: bytes | None = None
    pixels: UInt8[np.ndarray, "height width 3"] | None = field(default=None, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """The image's in a decision, of its pixels or of its content; empty for what lies at ``path``."""
        if self.pixels is not None:
            return pixels_digest(self.pixels)[:32]
        return digest_of(self.content) if self.content else ""


@dataclass(frozen=True)
class Judged:
    """An image that was judged.

    Attributes:
      decision: not recorded yet.
      result: with its map, for pictures; None for a file that could not be read or has no score.
      is_whole: whether the file could be read and has the end that its format wants, which one that is still being
        written has not, though all its pixels may be there.
    """

    decision: Decision
    result: ScoredImage | None
    is_whole: bool = True


@dataclass(frozen=True)
class Loaded:
    """A state of a model.

    Attributes:
      model: as loaded.
      name: that of its folder; of a link to one, the link's, which stays where it is made to lead to another.
      digest: SHA-256 of its manifest, which names all its files with their digests.
      decider: of its verdicts.
      fitted_on: what it knows of its own files.
    """

    model: Padim
    name: str
    digest: str
    decider: Decider
    fitted_on: FittedOn


@dataclass(frozen=True)
class _Read:
    photo: Photo
    pixels: np.ndarray | None
    digest: str
    size: tuple[int, int]
    reason: str = ""
    is_whole: bool = False
    appearance: Appearance | None = None


@dataclass(frozen=True)
class Begun:
    """Images that threads are reading.

    Attributes:
      photos: which ones.
      state: of the model that they are read for.
      files: of each, once it is read.
    """

    photos: Sequence[Photo]
    state: Loaded
    files: Sequence[Future[_Read]]


class Judge:
    """Judges images by the model in a folder; threads may call it, one at a time is served.

    Args:
      path: of the model.
      rates: of the verdicts.
      batch_size: most images computed at once.
      regions: which ones to find.
      remark: told what is worth knowing: of the rates, of a model that was replaced or could not be loaded.
      admit: asked before a model is loaded from its folder; a ValueError of it refuses the model.

    Attributes:
      current: the model in use.

    Raises:
      ArtifactError: no model.
      NoVerdicts: it is not calibrated, or on too few images.
      ValueError: a size below 1.
    """

    def __init__(
        self,
        path: Path,
        rates: Rates | None = None,
        *,
        batch_size: int = 16,
        regions: RegionSearch | None = None,
        remark: Callable[[str], None] = lambda text: None,
        admit: Callable[[Path], object] = lambda path: None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Judge: batch_size={batch_size}, wanted 1 or more images")
        self.path, self.batch_size = path, batch_size
        self._rates, self._regions, self._remark = rates or Rates(None), regions or RegionSearch(), remark
        self._admit = admit
        self._lock, self._failed, self._retry = threading.RLock(), "", 0.0
        self._pool = ThreadPoolExecutor(CORES, thread_name_prefix="decode")
        self._state = self._look()
        self.current = self._load()

    def warm_up(self) -> None:
        """Compile what images will need, so that the first one does not wait for it."""
        with self._lock:
            self._warm_up(self.current)

    def _warm_up(self, state: Loaded) -> None:
        height, width = state.model.config.crop
        for count in sorted({min(1 << power, self.batch_size) for power in range(self.batch_size.bit_length() + 1)}):
            names = [Path(f"warm-up-{index}") for index in range(count)]
            black = np.zeros((count, height, width, 3), np.uint8)
            batch = Batch(names, black, [""] * count, [(width, height)] * count)
            for _ in self._score(state, batch):
                pass

    def refresh(self) -> bool:
        """Load the model anew if another has taken its place; whether it has."""
        with self._lock:
            state, now = self._look(), time.monotonic()
            if state in (self._state, None) or (self._failed and now < self._retry):  # None: it is being replaced now
                return False
            before = self.current
            try:
                if manifest_checksum(read_manifest(self.path)) != before.digest:
                    loaded = self._load()
                    self._warm_up(loaded)  # before it takes over: one that can't score changes nothing
                    self.current = loaded
                    self._remark(f"{self.path} was replaced: {before.digest[:12]} → {self.current.digest[:12]}")
            except _FORESEEN as error:
                if self._failed != str(error):
                    self._remark(
                        f"{self.path} was replaced by what can't be used, so the model goes on that was: {error}"
                    )
                self._failed, self._retry = str(error), now + _RETRY
                return False
            self._state, self._failed = state, ""
            return self.current is not before

    def judge(self, photos: Sequence[Photo]) -> list[Judged]:
        """Judge images, in order; every one gets a decision.

        Files that can't be read are "unreadable", and an image whose score is no finite number is to be looked at.
        Where several frames were taken for the first one, or transparent pixels for black, the reason says so.
        """
        return self.finish(self.begin(photos))

    def begin(self, photos: Sequence[Photo]) -> Begun:
        """Let threads read images, while others are judged."""
        state = self.current
        return Begun(photos, state, [self._pool.submit(_read, photo, state.model) for photo in photos])

    def finish(self, begun: Begun) -> list[Judged]:
        """Judge images that :meth:`begin` has begun to read, as :meth:`judge` does."""
        with self._lock:
            if begun.state is not self.current:  # another model may want another size
                begun = self.begin(begun.photos)
            files = [future.result() for future in begun.files]
            results = self._results(begun.state, [file for file in files if file.pixels is not None])
            return [_decide(begun.state, file, results.get(id(file))) for file in files]

    def _results(self, state: Loaded, files: Sequence[_Read]) -> Mapping[int, ScoredImage | str]:
        """Result of each file, by identity, or why it has none."""
        found = dict[int, ScoredImage | str]()
        for first in range(0, len(files), self.batch_size):
            part = files[first : first + self.batch_size]
            try:
                found |= zip(map(id, part), self._score(state, _batch(part)), strict=True)
            except FloatingPointError:
                for file in part:  # one broken image must not take the others along
                    try:
                        (found[id(file)],) = self._score(state, _batch([file]))
                    except FloatingPointError as error:
                        found[id(file)] = str(error)
        return found

    def _score(self, state: Loaded, batch: Batch) -> list[ScoredImage]:
        options: dict[str, Any] = {"batch_size": self.batch_size, "is_many": False, "regions": self._regions}
        return [state.fitted_on.annotate(item) for item in score_batches(state.model, [batch], **options)]

    def _load(self) -> Loaded:
        digest = manifest_checksum(read_manifest(self.path))
        self._admit(self.path)
        model, fitted_on = load(self.path), FittedOn.read(self.path)
        if manifest_checksum(read_manifest(self.path)) != digest:
            raise OSError(f"{self.path} was replaced while it was being loaded; try again")
        decider = Decider.of("judge", model.calibration, self._rates, fitted_on)
        check_standard("judge", model)
        if decider.remark:
            self._remark(decider.remark)
        return Loaded(model, Path(os.path.abspath(self.path)).name, digest, decider, fitted_on)

    def _look(self) -> tuple[int, ...] | None:
        """What changes whenever another model takes the place of this one."""
        try:
            found = (self.path / MANIFEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _read(photo: Photo, model: Padim) -> _Read:
    content, notes = b"", list[str]()
    try:
        if photo.pixels is not None:
            opened = Image.fromarray(photo.pixels)
        else:
            content = read_file(photo.path) if photo.content is None else photo.content
            opened = open_image(photo.path, content, lambda _, text: notes.append(text))
        pixels = np.asarray(centre_crop(resize(photo.path, opened, model.config), model.config))
    except UnreadableImage as error:
        return _Read(photo, None, photo.digest or (digest_of(content) if content else ""), (0, 0), error.reason)
    # what came in a request is all there, and a camera may add something behind a JPEG's end
    is_whole = has_end(content) or (photo.content is not None and content.startswith(b"\xff\xd8"))
    digest, noted = photo.digest or digest_of(content), "; ".join(notes)
    return _Read(photo, pixels, digest, opened.size, noted, is_whole, measure(pixels))


def has_end(content: bytes) -> bool:
    r"""Whether an image file has the end that its format wants; True for formats that want none.

    >>> has_end(b"\x89PNG and no end")
    False
    """
    if content.startswith(b"\x89PNG"):
        return b"IEND\xaeB`\x82" in content[-4096:]
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in content[-4096:]
    if content.startswith(b"RIFF"):
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True


def _batch(files: Sequence[_Read]) -> Batch:
    pixels = np.stack([file.pixels for file in files if file.pixels is not None])
    paths, digests = [file.photo.path for file in files], [file.digest for file in files]
    return Batch(paths, pixels, digests, [file.size for file in files])


def _decide(state: Loaded, file: _Read, result: ScoredImage | str | None) -> Judged:
    photo = file.photo
    decision = Decision(
        photo.source, photo.item, file.digest, state.name, state.digest, "unreadable", file.reason, stamp=photo.stamp
    )
    if result is None:
        return Judged(decision, None, file.is_whole)
    if isinstance(result, str):
        return Judged(replace(decision, verdict="look", reason=result), None, file.is_whole)
    verdict, reason = state.decider.verdict(result)
    notes = [note for note in result.notes if note not in reason]
    regions = None if result.regions is None else tuple(region_record(region) for region in result.regions)
    decision = replace(
        decision,
        verdict=verdict,
        reason="; ".join(filter(None, (reason, *notes, file.reason))),
        score=result.score,
        p_value=result.p_value,
        regions=regions,
        appearance=_appearance(state, file, result),
    )
    return Judged(decision, replace(result, decided=verdict), file.is_whole)


def _appearance(state: Loaded, file: _Read, result: ScoredImage) -> Appearance | None:
    if file.appearance is None:
        return None
    turns = state.model.config.align == "rigid"
    return complete(file.appearance, result.anomaly_map, result.pose, turns=turns)


def region_record(region: Region) -> dict[str, Any]:
    """A region as JSON has it."""
    left, top, width, height = region.box
    place = {"left": left, "top": top, "width": width, "height": height, "area": region.area}
    return place | {"peak": region.peak, "row": region.row, "column": region.column, "p_value": region.p_value}
