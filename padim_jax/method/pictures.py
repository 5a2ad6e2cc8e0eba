"""Heat maps as pictures: one fixed colour scale, laid over the image."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

# The "inferno" scale of matplotlib (CC0), at nine equal steps: even in lightness, readable without colour vision.
_INFERNO = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    np.float64,
)
_OPACITY = 0.85  # of the hottest cells; at the low end of the scale the image shows unchanged
_TINT = 0.5  # opacity of a heat map: what is under it can still be seen
_SMALLEST_SIDE = 256  # pixels; the longer side of a photo has about as many or more
BAR = 14  # width of the colour bar in pixels
_GRID_SIDE = 448  # about as many pixels on a grid's longer side


def colours(fractions: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """RGB in [0, 255] of levels in [0, 1] on the inferno scale."""
    steps = np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(fractions, steps, _INFERNO[:, channel]) for channel in range(3)], axis=-1)


def levels(
    anomaly_map: Float[np.ndarray, "height width"], scale: tuple[float, float]
) -> Float[np.ndarray, "height width"]:
    """Where distances lie between the two ends of ``scale``, clipped to [0, 1]."""
    low, high = scale
    return np.clip((anomaly_map - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    anomaly_map: Float[np.ndarray, "height width"],
    scale: tuple[float, float],
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay a map over its image; opacity grows with the distance.

    Args:
      image: what the model saw.
      anomaly_map: its distances.
      scale: distances shown as the coldest and the hottest colour; give all images of a run the same.
    """
    fractions = levels(anomaly_map, scale)
    opacity = _OPACITY * np.minimum(2 * fractions, 1)[..., None]
    return np.rint(image * (1 - opacity) + colours(fractions) * opacity).astype(np.uint8)


def picture(
    image: UInt8[np.ndarray, "height width 3"],
    anomaly_map: Float[np.ndarray, "rows columns"],
    scale: tuple[float, float],
    title: str,
    *,
    threshold: float | None = None,
    summit: tuple[float, float] | None = None,
) -> Image.Image:
    """The image beside the same with the map laid over it, under a title, with the colour scale in distances.

    Args:
      image: the photo; small ones are shown several times as large.
      anomaly_map: of what the photo shows, at any size.
      scale: distances shown as the coldest and the hottest colour.
      title: put on one line: characters that can't be printed are escaped.
      threshold: drawn as an outline of what lies above it, and on the colour scale.
      summit: (row, column) of the map's maximum in the photo, in its pixels; marked by corners around it.
    """
    factor = max(1, _SMALLEST_SIDE // max(image.shape[:2]))
    photo = Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image)
    blended = _blend(photo, anomaly_map, scale, threshold)
    if summit is not None:
        _mark_corners(blended, summit[0] * factor, summit[1] * factor)
    printable_title = "".join(c if c.isprintable() else repr(c)[1:-1] for c in title)
    gap, head, labels = 6, 20, 96 if threshold is not None else 44
    canvas = Image.new("RGB", (2 * photo.width + 3 * gap + BAR + labels, photo.height + head + gap), "white")
    ImageDraw.Draw(canvas).text((gap, 4), printable_title, fill="black", font=ImageFont.load_default(12))
    canvas.paste(photo, (0, head))
    canvas.paste(blended, (photo.width + gap, head))
    colour_bar(canvas, 2 * photo.width + 2 * gap, head, photo.height, scale, threshold)
    return canvas


def _blend(
    photo: Image.Image,
    anomaly_map: Float[np.ndarray, "rows columns"],
    scale: tuple[float, float],
    threshold: float | None,
) -> Image.Image:
    """The photo tinted by the map, so that what is under it can still be seen."""
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    distances = np.asarray(resized)
    level_image = Image.fromarray(np.rint(255 * levels(distances, scale)).astype(np.uint8))
    tint = level_image.copy()
    tint.putpalette(np.rint(colours(np.linspace(0, 1, 256))).astype(np.uint8).tobytes())
    opacity = level_image.point([round(255 * _TINT * min(2 * level / 255, 1)) for level in range(256)])
    blended = Image.composite(tint.convert("RGB"), photo, opacity)
    if threshold is not None and (anomaly_map > threshold).any():
        above = distances > threshold
        # a peak that is hardly above the threshold sinks below it when the map is resized
        peaks = np.argwhere(anomaly_map > threshold) + 0.5
        rows, columns = (peaks * np.divide(above.shape, anomaly_map.shape)).astype(int).T
        above[rows, columns] = True
        pixels = np.array(blended)
        outside, inside = _outline(above, max(1, max(photo.size) // 400))
        pixels[outside], pixels[inside] = 0, 255
        blended = Image.fromarray(pixels)
    return blended


def _outline(
    above: Bool[np.ndarray, "height width"], width: int
) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Pixels just outside of a region, and just outside of those: two lines of ``width``, seen on any ground."""
    inside = _grow(above, width)
    return _grow(inside, width) & ~inside, inside & ~above


def _grow(region: Bool[np.ndarray, "height width"], margin: int) -> Bool[np.ndarray, "height width"]:
    """The region, widened by a margin of pixels."""
    for axis in (0, 1):
        narrow, region = region.swapaxes(0, axis), region.swapaxes(0, axis).copy()
        for step in range(1, margin + 1):
            region[step:] |= narrow[:-step]
            region[:-step] |= narrow[step:]
        region = region.swapaxes(0, axis)
    return region


def _mark_corners(image: Image.Image, row: float, column: float) -> None:
    """Mark a place by the corners of a square around it."""
    draw, reach = ImageDraw.Draw(image), max(10, round(0.03 * max(image.size)))
    for colour, width in (("black", 3), ("white", 1)):
        for down in (-1, 1):
            for right in (-1, 1):
                x, y = column + right * reach, row + down * reach
                draw.line([(x - right * reach / 2, y), (x, y), (x, y - down * reach / 2)], fill=colour, width=width)


def grid_picture(values: Float[np.ndarray, "rows columns"], title: str) -> Image.Image:
    """The numbers of a grid as colours under a title, with its rows and columns numbered, and the colour scale.

    Values that are not finite stay grey.
    """
    rows, columns = values.shape
    cell = max(1, round(_GRID_SIDE / max(rows, columns)))
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    scaled = np.rint(colours(levels(np.where(finite, values, low), (low, high))))
    cells = np.where(finite[..., None], scaled, 128).astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    font, gap, head, side, labels = ImageFont.load_default(12), 6, 38, 34, 62
    width, height = columns * cell, rows * cell
    title_width = ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(title, font=font)
    canvas = Image.new(
        "RGB", (max(side + width + gap + BAR + labels, int(title_width) + 2 * gap), head + height + gap), "white"
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 4), title, fill="black", font=font)
    canvas.paste(Image.fromarray(cells), (side, head))
    for row in {0, rows // 2, rows - 1}:
        draw.text((side - 4, head + (row + 0.5) * cell), str(row), fill="black", font=font, anchor="rm")
    for column in {0, columns // 2, columns - 1}:
        draw.text((side + (column + 0.5) * cell, head - 3), str(column), fill="black", font=font, anchor="mb")
    colour_bar(canvas, side + width + gap, head, height, (low, high))
    return canvas


def colour_bar(
    canvas: Image.Image, left: int, top: int, height: int, scale: tuple[float, float], threshold: float | None = None
) -> None:
    """Draw the colour scale from ``scale[1]`` at the top to ``scale[0]``, with numbers and a line at the threshold."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    ramp = np.rint(colours(np.linspace(1, 0, height)))[:, None].repeat(BAR, axis=1).astype(np.uint8)
    canvas.paste(Image.fromarray(ramp), (left, top))
    low, high = scale
    texts = {top: f"{high:.4g}", top + height - 13: f"{low:.4g}"}
    if threshold is not None and low <= threshold <= high:
        level = (threshold - low) / max(high - low, np.finfo(np.float32).tiny)
        y = top + round((1 - level) * (height - 1))
        draw.line([(left - 2, y), (left + BAR + 2, y)], fill="black", width=3)
        draw.line([(left - 2, y), (left + BAR + 2, y)], fill="white", width=1)
        label_y = min(max(y - 7, top), top + height - 13)
        texts = {text_y: text for text_y, text in texts.items() if abs(text_y - label_y) > 13}
        texts[label_y] = f"{threshold:.4g} threshold"
    for y, text in texts.items():
        draw.text((left + BAR + 5, y), text, fill="black", font=font)
