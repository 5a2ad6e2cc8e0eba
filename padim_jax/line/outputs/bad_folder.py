"""A folder of bad images, each with a picture of what is bad about it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from padim_jax.artifact.ownership import claim, locked
from padim_jax.images.decode import read_file
from padim_jax.images.folder import digest_of
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.outputs.output import Picture
from padim_jax.line.records import Decision, Verdict
from padim_jax.runs.outputs import write_heatmap
from weights_conversion.atomic import write_atomically

PICTURES = "pictures"


class BadFolder:
    """Copies of bad images, by the names they had and their decision's id, and pictures of them in ``pictures/``.

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
        self.path, self.name, self._judge, self._remark = path, f"bad-folder {os.path.abspath(path)}", judge, remark
        with locked(path, "watch"):
            names = [entry.name for entry in path.iterdir() if entry.name != ".padim-lock"]
            claim(path, names, "watch")
        (path / PICTURES).mkdir(exist_ok=True)

    def deliver(self, decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        """Copy the image and draw its picture; what lies there already is written anew."""
        source = Path(decision.source, decision.item) if decision.source != "-" else Path(decision.item)
        # the sequence sorts, and the id tells those of several stores apart
        name = f"{decision.sequence:08}-{decision.id[:12]}-{source.stem[:80]}"
        content = b""
        try:
            content = read_file(source)
        except ValueError as error:
            self._remark(f"{self.name}: {error}; the picture alone is kept")
        if content and digest_of(content) != decision.image_digest:
            self._remark(f"{self.name}: {source} holds another image by now; the picture alone is kept")
            content = b""
        if content:
            write_atomically(self.path / f"{name}{source.suffix}", content)
        picture = picture or (self._redraw(decision, source, content) if content else None)
        if picture is None:
            self._remark(f"{self.name}: no picture of {decision.item}, which another state of the model has judged")
            return
        target = self.path / PICTURES / f"{name}.png"
        draft = target.with_name(f".{target.name}.tmp")
        config = picture.config if content else None  # None: of what the network saw, since the file is another
        write_heatmap(draft, picture.result, picture.scale, config=config, threshold=picture.threshold)
        draft.replace(target)

    def _redraw(self, decision: Decision, path: Path, content: bytes) -> Picture | None:
        """The picture of a decision that was made before this process began."""
        if self._judge is None or self._judge.current.digest != decision.model_digest:
            return None
        (found,) = self._judge.judge([Photo(decision.source, decision.item, path, content=content)])
        return None if found.result is None else Picture.of(self._judge.current, found.result)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""
