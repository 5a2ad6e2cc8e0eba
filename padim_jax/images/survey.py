"""What a folder of images holds: kinds, sizes, duplicates, the odd ones out, and what can't be read."""

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
_SAME_ASPECT = 0.01  # relative difference that rounding to whole pixels may cause


@dataclass(frozen=True)
class ImageFacts:
    """What is known about an image file.

    Attributes:
      path: the file.
      format: of the file, such as "PNG".
      mode: its channels in words, such as "grey", "RGB with alpha", "CMYK".
      bits: of each channel, as stored.
      size: (width, height) of the upright image, in pixels.
      frames: how many it holds, counted up to 100; the first is taken as the image.
      digest: of its content, as :class:`padim_jax.images.Batch` has them.
      pixel_digest: of its decoded pixels, equal for equal pixels in whatever file; None where they were not decoded.
      depth: kind of its values; None where they were not decoded.
      notes: what was decided when it was decoded, such as that transparent pixels were laid on black.
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
      paths: the images with another value, and that value.
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
      unreadable: called with files that can't be read, in order.
      decode: decode the pixels too; otherwise damage inside them is not noticed.
      advance: called with 1 after every file.
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
    return _groups((image.digest, image.path) for image in images)


def find_equal_pixels(images: Sequence[ImageFacts]) -> list[list[Path]]:
    """Groups of files with the same pixels but different content; one file stands for those of the same content."""
    first = {image.digest: image for image in reversed(images)}
    distinct = [image for image in images if first[image.digest] is image]
    return _groups((image.pixel_digest, image.path) for image in distinct if image.pixel_digest is not None)


def find_oddities(images: Sequence[ImageFacts]) -> list[Oddity]:
    """How images differ that should be alike: in size, aspect ratio, channels, depth, or format.

    The common value is that of the most images; of several such values, the first.
    """
    if not images:
        return []
    oddities = []
    for name, value in (
        ("size", lambda image: "×".join(map(str, image.size))),
        ("channels", lambda image: image.mode),
        ("bits a channel", lambda image: str(image.bits)),
        ("file format", lambda image: image.format),
    ):
        values = {image.path: value(image) for image in images}
        common = Counter(values.values()).most_common(1)[0][0]
        odd_values = {path: other for path, other in values.items() if other != common}
        if odd_values:
            oddities.append(Oddity(name, common, odd_values))
    width, height = Counter(image.size for image in images).most_common(1)[0][0]
    stretched = {
        image.path: f"{image.size[0] / image.size[1]:.3g}"
        for image in images
        if abs(image.size[0] * height / (image.size[1] * width) - 1) > _SAME_ASPECT
    }
    if stretched:
        oddities.append(Oddity("aspect ratio", f"{width / height:.3g}", stretched))
    return oddities


def _groups(pairs: Iterator[tuple[Hashable, Path]]) -> list[list[Path]]:
    groups: dict[Hashable, list[Path]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


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
        arrays = [image.values, *([] if image.alpha is None else [image.alpha])]
        kind, parts = str(image.values.dtype), [array.tobytes() for array in arrays]
    else:
        kind, parts = image.mode, [image.tobytes()]
    digest = hashlib.sha256(f"{kind} {image.size}".encode())
    for part in parts:
        digest.update(part)
    return ImageFacts(**{**vars(facts), "pixel_digest": digest.hexdigest()[:32], "depth": depth, "notes": tuple(notes)})
