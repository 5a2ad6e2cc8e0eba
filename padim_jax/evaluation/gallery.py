"""Pictures of the test images worth looking at, in bounded memory."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from padim_jax.method.pictures import colours, levels, overlay

LIMIT = 400  # entries kept, of four files each: some 10 MB
LONGEST_SIDE = 256  # pixels; larger images are shrunk
_QUALITY = 82  # of JPEG


@dataclass(frozen=True)
class Entry:
    """A test image with its result; ``index`` counts the test images, and a method of whole images has no map."""

    index: int
    label: bool
    score: float
    image: UInt8[np.ndarray, "height width 3"]
    anomaly_map: Float[np.ndarray, "height width"] | None
    mask: Bool[np.ndarray, "height width"] | None


class Gallery:
    """Keeps all results or, once there are too many, the likely mistakes and the clearest cases of either kind.

    Three in eight are the defective images of lowest score, three in eight the good ones of highest score, one in
    eight each the other extremes; what is kept does not depend on the order of adding.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: list[Entry] = []
        self._pruned = False

    def add(self, entry: Entry) -> None:
        """Add a result."""
        self._entries.append(_shrink(entry))
        if len(self._entries) > self._limit * 5 // 4:
            self._prune()

    def __iter__(self) -> Iterator[Entry]:
        """Entries kept, by index."""
        if self._pruned or len(self._entries) > self._limit:
            self._prune()
        return iter(sorted(self._entries, key=lambda entry: entry.index))

    def _prune(self) -> None:
        ascending = sorted(self._entries, key=lambda entry: (entry.score, entry.index))
        defective, good = ([entry for entry in ascending if entry.label == kind] for kind in (True, False))
        many, few = 3 * self._limit // 8, self._limit // 8
        parts = defective[:many], good[-many:], defective[-few:], good[:few]
        self._entries = list({entry.index: entry for part in parts for entry in part}.values())
        self._pruned = True


def encode(entry: Entry, scale: tuple[float, float]) -> dict[str, bytes]:
    """Files of an entry by what they show: ``image``, and ``map``, ``overlay`` and ``mask`` where there are any.

    Args:
      entry: a result.
      scale: the distances that are shown in the coldest and in the hottest colour.
    """
    pictures = {"image.jpg": entry.image}
    if entry.anomaly_map is not None:
        pictures["map.jpg"] = np.rint(colours(levels(entry.anomaly_map, scale))).astype(np.uint8)
        pictures["overlay.jpg"] = overlay(entry.image, entry.anomaly_map, scale)
    files = {name: _encode(Image.fromarray(pixels), "JPEG", quality=_QUALITY) for name, pixels in pictures.items()}
    if entry.mask is not None:
        files["mask.png"] = _encode(Image.fromarray(entry.mask), "PNG")
    return files


def _shrink(entry: Entry) -> Entry:
    height, width = entry.image.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def resize(pixels: np.ndarray) -> np.ndarray:
        if factor >= 1:
            return pixels.copy()  # a view would keep its whole batch in memory
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))

    mask = entry.mask
    if mask is not None:  # any defective pixel shows, however small the picture
        mask = mask.copy() if factor >= 1 else resize(mask.astype(np.float32)) > 0
    anomaly_map = None if entry.anomaly_map is None else resize(entry.anomaly_map)
    return replace(entry, image=resize(entry.image), anomaly_map=anomaly_map, mask=mask)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
