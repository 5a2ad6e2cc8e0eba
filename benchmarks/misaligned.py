"""Generated parts that lie a little differently in every image, as in a fixture with some play, or at any angle.

Not a benchmark by itself; ``lite0_local.py``, ``masks.py`` and ``sharper.py`` use it.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 256  # pixels of an image's side
_DRAWN = 512  # side at which the part is drawn
SHIFT, ANGLE = 16.0, 10.0  # largest displacement in pixels, and rotation in degrees: those of Rd-MVTec AD
_PHOTO, _SCRATCH = 1024, 80  # pixels: side of a photo of a part that is turned freely, length of the scratch on it


@dataclass(frozen=True)
class Generated:
    """Images (n, 224, 224, 3), uint8; masks (n, 224, 224), bool; labels (n,), true for defective."""

    images: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


def generate(good: int, defective: int, seed: int, *, play: float = 1.0) -> Generated:
    """Metal plates with bores, an engraving and a cable, each displaced; the defective ones with one flaw.

    ``play`` scales the displacements; with 0 all parts lie alike.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(good + defective) >= good
    pairs = [_image(rng, bool(label), play) for label in labels]
    images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
    return Generated(images, masks, labels)


def generate_turned(good: int, defective: int, seed: int) -> Generated:
    """The same part at any angle, in photos of 1024 pixels that are seen at 224; the defective ones have a scratch.

    A scratch is a bright line of 80 pixels, 6 wide, in the photo: 17 and 1.3 in what is seen.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(good + defective) >= good
    pairs = [_turned(rng, bool(label)) for label in labels]
    images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
    return Generated(images, masks, labels)


def _turned(rng: np.random.Generator, defective: bool) -> tuple[np.ndarray, np.ndarray]:
    part = _part().resize((_PHOTO, _PHOTO), Image.Resampling.BICUBIC)
    mask = Image.new("L", part.size)
    if defective:
        scale = _PHOTO / _DRAWN
        x, y, angle = scale * rng.uniform(110, 402), scale * rng.uniform(140, 372), rng.uniform(0, np.pi)
        ends = (x, y, x + _SCRATCH * np.cos(angle), y + _SCRATCH * np.sin(angle))
        ImageDraw.Draw(part).line(ends, fill=(235, 235, 238), width=6)
        ImageDraw.Draw(mask).line(ends, fill=255, width=8)
    angle, shift = rng.uniform(0, 360), tuple(rng.uniform(-SHIFT, SHIFT, 2) * _PHOTO / SIZE)
    placed = part.rotate(angle, Image.Resampling.BICUBIC, translate=shift, fillcolor=(96, 99, 92))
    pixels = np.asarray(placed, np.float64) * rng.uniform(0.92, 1.08) + rng.normal(0, 8, (_PHOTO, _PHOTO, 1))
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    covered = mask.rotate(angle, Image.Resampling.NEAREST, translate=shift)
    seen = photo.resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(seen), np.asarray(covered.resize((224, 224), Image.Resampling.BOX)) > 63


def _image(rng: np.random.Generator, defective: bool, play: float) -> tuple[np.ndarray, np.ndarray]:
    part, mask = _part(), Image.new("L", (_DRAWN, _DRAWN))
    if defective:
        _flaw(rng, part, mask)
    angle, shift = play * rng.uniform(-ANGLE, ANGLE), tuple(play * rng.uniform(-SHIFT, SHIFT, 2) * _DRAWN / SIZE)
    background = (96, 99, 92)
    placed = part.rotate(angle, Image.Resampling.BICUBIC, translate=shift, fillcolor=background)
    placed = placed.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(placed, np.float64) * rng.uniform(0.92, 1.08) + rng.normal(0, 4, (SIZE, SIZE, 1))
    covered = mask.rotate(angle, Image.Resampling.NEAREST, translate=shift).resize((SIZE, SIZE), Image.Resampling.BOX)
    inside = slice((SIZE - 224) // 2, (SIZE + 224) // 2)
    image = np.clip(pixels, 0, 255).astype(np.uint8)[inside, inside]
    return image, (np.asarray(covered) > 127)[inside, inside]


def _part() -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), (96, 99, 92))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((60, 90, 452, 422), 40, fill=(168, 172, 176), outline=(120, 124, 128), width=6)
    for x, y, r in ((120, 150, 26), (392, 150, 26), (120, 362, 26), (392, 362, 26), (256, 256, 58)):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(52, 54, 58), outline=(205, 208, 210), width=5)
    for x in range(190, 330, 14):  # an engraved scale
        draw.line((x, 120, x, 150 if (x - 190) % 70 else 166), fill=(110, 113, 118), width=4)
    draw.line((170, 380, 230, 340, 290, 392, 350, 350), fill=(150, 60, 48), width=10, joint="curve")
    return image.filter(ImageFilter.GaussianBlur(1.2))


def _flaw(rng: np.random.Generator, part: Image.Image, mask: Image.Image) -> None:
    """A scratch, a dent or a stain on the plate, faint or plain."""
    x, y = rng.uniform(110, 402), rng.uniform(140, 372)
    strength = rng.uniform(0.25, 0.7)
    shape = Image.new("L", part.size)
    draw, marked = ImageDraw.Draw(shape), ImageDraw.Draw(mask)
    kind = rng.integers(3)
    if kind == 0:
        angle, length = rng.uniform(0, np.pi), rng.uniform(30, 90)
        ends = (x, y, x + length * np.cos(angle), y + length * np.sin(angle))
        draw.line(ends, fill=255, width=6)
        marked.line(ends, fill=255, width=8)
    else:
        radius = rng.uniform(8, 24)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=255)
        marked.ellipse(box, fill=255)
    weight = shape.filter(ImageFilter.GaussianBlur(1.5 if kind < 2 else 4)).point(lambda v: int(v * strength))
    part.paste((235, 235, 238) if kind == 0 else (70, 52, 40), mask=weight)
