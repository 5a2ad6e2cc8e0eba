"""What a folder of images is made of: kinds, sizes, duplicates, the odd ones out, and what can't be read."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from padim_jax.images.ahead import CORES, map_ahead
from padim_jax.images.decode import (
    DeepImage,
    FilePath,
    UnreadableImage,
    bits_per_channel,
    open_header,
    open_image,
    read_file,
    reasons,
    upright_size,
)
from padim_jax.images.folder import digest_of
from padim_jax.images.frames import count_frames

Depth = Literal["8 bits", "integers", "floats"]

_MODES = {  # Pillow's names in words
    "1": "black-and-white",
    "L": "grey",
    "I": "grey",
    "F": "grey",
    "RGB": "RGB",
    "P": "palette",
    "LA": "grey with alpha",
    "RGBA": "RGB with alpha",
    "PA": "palette with alpha",
}
_SAME_ASPECT = 0.01  # relative: as far as rounding to whole pixels may take one


@dataclass(frozen=True)
class ImageFacts:
    """What a file says of itself.

    Attributes:
      path: the file.
      format: of the file, as "PNG".
      mode: its channels in words, as "grey", "RGB with alpha", "CMYK".
      bits: of each channel, as stored.
      size: (width, height) of the upright image, in pixels.
      frames: how many it holds, counted up to 100; the first is the image.
      digest: of its content, as :class:`padim_jax.images.Batch` has them.
      pixel_digest: of its decoded pixels, equal for equal pixels in whatever file; None where they were not decoded.
      depth: kind of its values; None where they were not decoded.
      notes: what was decided when it was decoded, as that transparent pixels were laid on black.
    """

    path: Path
    format: str
    mode: str
    bits: int
    size: tuple[int, int]
    frames: int
    digest: str
    pixel_digest: str | None = None
    depth: Depth | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Oddity:
    """Images that differ from what most are.

    Attributes:
      what: the property, in words.
      common: its value among most images.
      paths: the images of another value, with that.
    """

    what: str
    common: str
    paths: Mapping[Path, str]


def survey(
    paths: Sequence[FilePath],
    unreadable: Callable[[UnreadableImage], None],
    *,
    decode: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[ImageFacts]:
    """Look at files in order, in threads; memory does not grow with their number.

    Args:
      paths: files to look at.
      unreadable: told of files that can't be read, in order.
      decode: decode the pixels too; without, damage inside them is not seen.
      advance: told of every file.
    """
    for _, future in map_ahead(partial(_look, decode=decode), map(Path, paths), 2 * CORES, name="survey"):
        try:
            facts = future.result()
        except UnreadableImage as error:
            unreadable(error)
        else:
            yield facts
        advance(1)


def find_duplicates(images: Sequence[ImageFacts]) -> list[list[Path]]:
    """Groups of files with the same content."""
    return _groups((one.digest, one.path) for one in images)


def find_equal_pixels(images: Sequence[ImageFacts]) -> list[list[Path]]:
    """Groups of files of different content with the same pixels; of files of the same content the first stands."""
    first = {one.digest: one for one in reversed(images)}
    each = [one for one in images if first[one.digest] is one]
    return _groups((one.pixel_digest, one.path) for one in each if one.pixel_digest is not None)


def find_oddities(images: Sequence[ImageFacts]) -> list[Oddity]:
    """In what images differ that should be alike: size, aspect ratio, channels, depth, format.

    The common value is that of the most images, of several such the first met.
    """
    if not images:
        return []
    found = []
    for what, value in (
        ("size", lambda one: "×".join(map(str, one.size))),
        ("channels", lambda one: one.mode),
        ("bits a channel", lambda one: str(one.bits)),
        ("file format", lambda one: one.format),
    ):
        values = {one.path: value(one) for one in images}
        common = Counter(values.values()).most_common(1)[0][0]
        odd = {path: other for path, other in values.items() if other != common}
        if odd:
            found.append(Oddity(what, common, odd))
    width, height = Counter(one.size for one in images).most_common(1)[0][0]
    stretched = {
        one.path: f"{one.size[0] / one.size[1]:.3g}"
        for one in images
        if abs(one.size[0] * height / (one.size[1] * width) - 1) > _SAME_ASPECT
    }
    if stretched:
        found.append(Oddity("aspect ratio", f"{width / height:.3g}", stretched))
    return found


def _groups(pairs: Iterator[tuple[Hashable, Path]]) -> list[list[Path]]:
    by: dict[Hashable, list[Path]] = {}
    for key, path in pairs:
        by.setdefault(key, []).append(path)
    return [paths for paths in by.values() if len(paths) > 1]


def _look(path: Path, decode: bool) -> ImageFacts:
    content = read_file(path)
    with io.BytesIO(content) as stream, reasons(path):
        opened = open_header(path, stream)
        mode = _MODES.get(opened.mode, "grey" if opened.mode.startswith("I;") else opened.mode)
        if "transparency" in opened.info and "alpha" not in mode:
            mode += " with alpha"
        facts = ImageFacts(
            path=path,
            format=opened.format or "",
            mode=mode,
            bits=bits_per_channel(opened),
            size=upright_size(opened),
            frames=count_frames(opened),
            digest=digest_of(content),
        )
    if not decode:
        return facts
    notes: list[str] = []
    image = open_image(path, content, lambda _, text: notes.append(text))
    depth: Depth = "8 bits"
    if isinstance(image, DeepImage):
        depth = "floats" if image.values.dtype.kind == "f" else "integers"
        kind, parts = (
            str(image.values.dtype),
            [image.values.tobytes(), *([] if image.alpha is None else [image.alpha.tobytes()])],
        )
    else:
        kind, parts = image.mode, [image.tobytes()]
    digest = hashlib.sha256(f"{kind} {image.size}".encode())
    for part in parts:
        digest.update(part)
    return ImageFacts(**{**vars(facts), "pixel_digest": digest.hexdigest()[:32], "depth": depth, "notes": tuple(notes)})
