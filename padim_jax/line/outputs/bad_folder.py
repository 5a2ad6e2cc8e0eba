"""A folder of bad images, each with a picture of what is bad about it."""

import errno
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from padim_jax.artifact.ownership import claim, locked
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.originals import Originals
from padim_jax.line.outputs.output import Picture, Refused
from padim_jax.line.records import Decision, Verdict
from padim_jax.line.sources.camera import is_camera
from padim_jax.runs.outputs import write_heatmap
from padim_jax.runs.tables import escape_bytes
from weights_conversion.atomic import write_atomically

PICTURES = "pictures"
FRAMES = ".frames"
_LONGEST_STEM, _LONGEST_SUFFIX = 120, 20  # bytes of a name; file systems take 255 with what is written around it


class BadFolder:
    """Copies of bad images, by the names they had and their decision's id, and pictures of them in ``pictures/``.

    Frames of videos and cameras are written as PNG. Those of cameras, which lie nowhere else, are kept in ``.frames/``
    from before their decision is recorded until they are handed on, by whichever process. Those of a video that a
    process which died had not put there are read from the video again, all in one pass.

    A process that is killed while it writes may leave a file ``.NAME.DIGITS.tmp`` or ``.NAME.tmp`` for ever. Watches
    may share the folder, so it is not locked while they write, and nobody can know which of these are left over: they
    are for people to remove while no watch runs.

    Args:
      path: of the folder; it is marked as padim's, so that nothing in it is taken for an image of a part.
      judge: judges an image again for its picture, where that was not drawn before the process died.
      remark: told of images that are not there any more.

    Raises:
      NotOurs: a folder with something else in it.
      OSError: it can't be written.
    """

    is_far: ClassVar[bool] = False
    verdicts: frozenset[Verdict] = frozenset({"bad"})

    def __init__(
        self,
        path: Path,
        judge: Judge | None = None,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self.name = path, f"bad-folder {escape_bytes(os.path.abspath(path))}"
        self._judge, self._remark = judge, remark
        self._originals = Originals()
        with locked(path, "watch"):
            names = [entry.name for entry in path.iterdir() if entry.name != ".padim-lock"]
            claim(path, names, "watch")
        (path / PICTURES).mkdir(exist_ok=True)

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Copy the image and draw its picture; what lies there already is written anew.

        Raises:
          Refused: the file system takes no name as long as this one.
          OSError: the folder can't be written.
        """
        try:
            self._deliver(decision, picture)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise Refused(*error.args) from error  # of this image alone

    def _deliver(self, decision: Decision, picture: Picture | None) -> None:
        item = Path(decision.item)
        # the sequence sorts, and the id tells those of several stores apart
        start = f"{decision.sequence:08}-{decision.id[:12]}"
        photo = self._original(decision, picture, self.path / f"{start}-{_cut(item.name, _LONGEST_STEM)}.png")
        is_frame = photo is not None and photo.pixels is not None
        name = f"{start}-{_cut(item.name if is_frame else item.stem, _LONGEST_STEM)}"
        copy = self.path / f"{name}{'.png' if is_frame else _cut(item.suffix, _LONGEST_SUFFIX)}"
        if photo is not None:
            write_atomically(copy, _content(photo))
            self._frame(decision).unlink(missing_ok=True)
            picture = picture or self._redraw(decision, photo)
        if picture is None:
            if photo is not None:  # or it was said already
                self._remark(f"{self.name}: no picture of {decision.item}, which another state of the model has judged")
            return
        target = self.path / PICTURES / f"{name}.png"
        draft = target.with_name(f".{target.name}.tmp")
        config = None if photo is None else picture.config  # None: of what the network saw, since the file is another
        result = replace(picture.result, path=copy) if is_frame else picture.result  # read again from its copy
        write_heatmap(draft, result, picture.scale, config=config, threshold=picture.threshold)
        draft.replace(target)

    def keep(self, decision: Decision, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        """Keep a frame that lies nowhere else, before its decision is recorded; where it can't be, that is said."""
        path = self._frame(decision)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, _content(Photo(decision.source, decision.item, path, pixels=pixels)))
        except OSError as error:
            self._remark(f"{self.name}: {decision.item} can't be kept ({error}), and is lost if this process ends now")

    def _frame(self, decision: Decision) -> Path:
        return self.path / FRAMES / f"{decision.id}.png"

    def _kept(self, decision: Decision, copy: Path) -> Photo | None:
        """A frame that was kept, or copied by a process that died then."""
        for path in (self._frame(decision), copy) if is_camera(decision.source) else ():
            with suppress(OSError), Image.open(path) as image:
                photo = Photo(decision.source, decision.item, path, pixels=np.asarray(image.convert("RGB")))
                if photo.digest == decision.image_digest:
                    return photo
        return None

    def _original(self, decision: Decision, picture: Picture | None, copy: Path) -> Photo | None:
        """The image itself; None, with a word, where it is not there any more."""
        if picture is not None and picture.pixels is not None:
            self._originals.close()  # what waited came before it
            return Photo(decision.source, decision.item, Path(decision.item), pixels=picture.pixels)
        if found := self._kept(decision, copy):
            return found
        kept = "it is not kept" if picture is None else "the picture alone is kept"
        try:
            photo = self._originals.read(decision)
        except ValueError as error:
            self._remark(f"{self.name}: {error}; {kept}")
            return None
        if photo.digest != decision.image_digest:
            self._remark(f"{self.name}: {photo.path} holds another image by now; {kept}")
            return None
        return photo

    def _redraw(self, decision: Decision, photo: Photo) -> Picture | None:
        """The picture of a decision that was made before this process began."""
        if self._judge is None or self._judge.current.digest != decision.model_digest:
            return None
        (found,) = self._judge.judge([photo])
        return None if found.result is None else Picture.of(self._judge.current, found.result)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Let go of a video that is still open."""
        self._originals.close()


def _cut(name: str, most: int) -> str:
    """The beginning of a name that takes at most so many bytes on the disk, whole characters."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _content(photo: Photo) -> bytes:
    """An image's file; of a frame, one is made."""
    if photo.pixels is None:
        return photo.content or b""
    stream = io.BytesIO()
    Image.fromarray(photo.pixels).save(stream, "PNG")
    return stream.getvalue()
