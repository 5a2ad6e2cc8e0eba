"""Photos of the last decisions, and what lay over them, so that people can look at what was decided.

A folder beside the store, marked as padim's: each photo once, by the digest of its bytes, and a transparent picture of
each decision's map. A picture goes with its decision, a photo with the last decision on it. Names come from decisions
in the store, whose ids and digests are hexadecimal digits: no part of a request is part of a path. A service that is
killed may leave a file half written; the next one removes it.
"""

import io
import re
import threading
from collections import Counter, OrderedDict
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from padim_jax.artifact.ownership import LOCK, claim, locked, remove_files
from padim_jax.images.decode import DeepImage, open_image
from padim_jax.images.geometry import seen_part
from padim_jax.line.judge import Judged, Loaded
from padim_jax.line.records import Decision
from padim_jax.method.pictures import colours, levels
from padim_jax.runs.score import ScoredImage
from weights_conversion.atomic import write_atomically

_SHOWN_AS_THEY_ARE = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}  # others are converted
_NAME = re.compile(r"([0-9a-f]{32})\.(photo|[0-9a-f]{32}\.png)")
_DRAFT = re.compile(rf"\.{_NAME.pattern}\.[0-9]+\.tmp")  # as write_atomically calls what it has not finished
_LONGEST_SIDE = 768  # pixels of a picture of a map
_OPACITY = 160  # of the hottest colour, of 255


class Photos:
    """The photos of the last decisions; nobody else may write the folder until :meth:`close`, by the same thread.

    Args:
      folder: to keep them in.
      most: of how many decisions.

    Raises:
      NotOurs: a folder with something else in it.
      FolderInUse: another service keeps its photos there.
      OSError: it can't be written.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most, self._lock = folder, most, threading.Lock()
        self._kept = OrderedDict[str, str]()  # digest of the photo by the id of the decision, the oldest first
        self._uses = Counter[str]()  # decisions that are kept, by the digest of their photo
        with ExitStack() as stack:
            stack.enter_context(locked(folder, "serve"))
            claim(folder, [path.name for path in folder.iterdir() if path.name != LOCK], "serve")
            self._find()
            self._held = stack.pop_all()

    def close(self) -> None:
        """Let others write the folder."""
        self._held.close()

    def keep(self, state: Loaded, judged: Judged, content: bytes) -> None:
        """Keep the photo of a decision, and the picture of its map.

        Raises:
          OSError: it can't be written.
        """
        decision = judged.decision
        photo = self._folder / f"{decision.image_digest}.photo"
        try:
            if not photo.exists():
                write_atomically(photo, content)
            if judged.result is not None:
                write_atomically(self._folder / _picture_name(decision), draw(state, judged.result))
        finally:
            if photo.exists():  # what was written counts, also where its picture could not be
                with self._lock:
                    self._add(decision.id, decision.image_digest)
                    self._forget()

    def has(self, decision: Decision) -> bool:
        """Whether the photo of a decision is kept."""
        return decision.image_digest in self._uses

    def path(self, decision: Decision) -> Path:
        """File of a photo, as it came.

        Raises:
          KeyError: it is not kept.
        """
        if not self.has(decision):
            raise KeyError(f"the photo of {decision.id} is not kept")
        return self._folder / f"{decision.image_digest}.photo"

    def file(self, digest: str) -> Path | None:
        """File of the photo with this digest, as it came; None where it is not kept."""
        return self._folder / f"{digest}.photo" if digest in self._uses else None

    def photo(self, decision: Decision) -> tuple[bytes, str]:
        """A photo as browsers show it, and its media type; formats that not all of them know become PNG.

        Raises:
          KeyError: it is not kept.
        """
        path = self.path(decision)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise KeyError(f"the photo of {decision.id} is not kept any more") from error
        for start, media_type in _SHOWN_AS_THEY_ARE.items():
            if content.startswith(start):
                return content, media_type
        opened = open_image(path, content, lambda path, text: None)
        return _png(_shallow(opened) if isinstance(opened, DeepImage) else opened), "image/png"

    def overlay(self, decision: Decision) -> bytes:
        """The picture of a decision's map, to lie over the whole photo, as PNG.

        Raises:
          KeyError: it is not kept.
        """
        try:
            if not self.has(decision):
                raise FileNotFoundError
            return (self._folder / _picture_name(decision)).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(f"no picture of the map of {decision.id} is kept") from error

    def _find(self) -> None:
        """Take over what an earlier service kept."""
        remove_files(self._folder, _DRAFT)  # of a service that was killed: nobody else holds the lock
        names = [path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        photos = {name.removesuffix(".photo") for name in names if name.endswith(".photo")}
        found = list[tuple[int, str, str]]()
        for name in names:
            digest, _, rest = name.partition(".")
            if digest not in photos:  # a picture of a photo that is gone
                (self._folder / name).unlink()
            elif rest != "photo":
                found.append(((self._folder / name).stat().st_mtime_ns, rest.removesuffix(".png"), digest))
        for digest in photos - {digest for _, _, digest in found}:  # no picture was made of it: it stands for itself
            found.append(((self._folder / f"{digest}.photo").stat().st_mtime_ns, digest, digest))
        for _, id, digest in sorted(found):
            self._add(id, digest)
        self._forget()

    def _add(self, id: str, digest: str) -> None:
        if id not in self._kept:
            self._uses[digest] += 1
        self._kept[id] = digest
        self._kept.move_to_end(id)

    def _forget(self) -> None:
        while len(self._kept) > self._most:
            id, digest = self._kept.popitem(last=False)
            self._uses[digest] -= 1
            names = [f"{digest}.{id}.png"]
            if not self._uses[digest]:
                del self._uses[digest]
                names.append(f"{digest}.photo")
            for name in names:
                with suppress(FileNotFoundError):
                    (self._folder / name).unlink()


def draw(state: Loaded, result: ScoredImage) -> bytes:
    """A map in the model's colours, transparent where it is cold, as a PNG that fills the whole photo."""
    calibration, config = state.model.calibration, state.model.config
    assert calibration is not None  # a model without one gives no verdicts
    low, high = calibration.colour_scale
    part = seen_part(result.size, config)
    left, top, right, bottom = map(int, part.crop)
    fractions = levels(result.anomaly_map[top:bottom, left:right], (float(low), float(high)))
    alpha = _OPACITY * np.minimum(2 * fractions, 1)[..., None]
    seen = Image.fromarray(np.rint(np.concatenate([colours(fractions), alpha], -1)).astype(np.uint8), "RGBA")
    scale = min(1.0, _LONGEST_SIDE / max(result.size))
    canvas = Image.new("RGBA", (max(1, round(result.size[0] * scale)), max(1, round(result.size[1] * scale))))
    x0, y0, x1, y1 = (round(value * scale) for value in part.original)
    canvas.paste(seen.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BILINEAR), (x0, y0))
    return _png(canvas)


def _picture_name(decision: Decision) -> str:
    return f"{decision.image_digest}.{decision.id}.png"


def _shallow(image: DeepImage) -> Image.Image:
    """Eight bits of a deeper image, from its darkest to its brightest value, to look at."""
    values = image.values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    scaled = np.rint(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
