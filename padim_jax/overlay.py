"""Heat maps as pictures: one fixed colour scale, laid over the image."""

import numpy as np
from jaxtyping import Float, UInt8
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
BAR = 14  # width of the colour bar in pixels
_GRID_SIDE = 448  # pixels of a grid's longer side, about


def colours(places: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """RGB in [0, 255] of levels in [0, 1] on the inferno scale."""
    steps = np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(places, steps, _INFERNO[:, channel]) for channel in range(3)], axis=-1)


def levels(
    anomaly_map: Float[np.ndarray, "height width"], scale: tuple[float, float]
) -> Float[np.ndarray, "height width"]:
    """Where distances lie between the two of ``scale``, in [0, 1]; clipped to it."""
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
    places = levels(anomaly_map, scale)
    opacity = _OPACITY * np.minimum(2 * places, 1)[..., None]
    return np.rint(image * (1 - opacity) + colours(places) * opacity).astype(np.uint8)


def picture(
    image: UInt8[np.ndarray, "height width 3"],
    anomaly_map: Float[np.ndarray, "height width"],
    scale: tuple[float, float],
    title: str,
) -> Image.Image:
    """Image and overlay side by side under a title, with the colour scale in distances."""
    height, width = anomaly_map.shape
    font = ImageFont.load_default(12)
    gap, head, labels = 6, 20, 44
    canvas = Image.new("RGB", (2 * width + 3 * gap + BAR + labels, height + head + gap), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 4), title, fill="black", font=font)
    canvas.paste(Image.fromarray(image), (0, head))
    canvas.paste(Image.fromarray(overlay(image, anomaly_map, scale)), (width + gap, head))
    left = 2 * width + 2 * gap
    colour_bar(canvas, left, head, height, scale)
    return canvas


def grid_picture(values: Float[np.ndarray, "rows columns"], title: str) -> Image.Image:
    """Numbers of the cells of a grid as colours under a title, with rows and columns told, and the colour scale.

    Values that are not finite stay grey.
    """
    rows, columns = values.shape
    cell = max(1, round(_GRID_SIDE / max(rows, columns)))
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    scaled = np.rint(colours(levels(np.where(known, values, low), (low, high))))
    cells = np.where(known[..., None], scaled, 128).astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    font, gap, head, side, labels = ImageFont.load_default(12), 6, 38, 34, 62
    width, height = columns * cell, rows * cell
    least = ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(title, font=font)
    canvas = Image.new(
        "RGB", (max(side + width + gap + BAR + labels, int(least) + 2 * gap), head + height + gap), "white"
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


def colour_bar(canvas: Image.Image, left: int, top: int, height: int, scale: tuple[float, float]) -> None:
    """Draw the colour scale from ``scale[1]`` at the top to ``scale[0]``, with numbers."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    ramp = np.rint(colours(np.linspace(1, 0, height)))[:, None].repeat(BAR, axis=1).astype(np.uint8)
    canvas.paste(Image.fromarray(ramp), (left, top))
    for value, y in ((scale[1], top), (scale[0], top + height - 13)):
        draw.text((left + BAR + 4, y), f"{value:.3g}", fill="black", font=font)
