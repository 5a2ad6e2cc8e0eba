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
_BAR = 14  # width of the colour bar in pixels


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
    canvas = Image.new("RGB", (2 * width + 3 * gap + _BAR + labels, height + head + gap), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 4), title, fill="black", font=font)
    canvas.paste(Image.fromarray(image), (0, head))
    canvas.paste(Image.fromarray(overlay(image, anomaly_map, scale)), (width + gap, head))
    ramp = np.rint(colours(np.linspace(1, 0, height)))[:, None].repeat(_BAR, axis=1).astype(np.uint8)
    left = 2 * width + 2 * gap
    canvas.paste(Image.fromarray(ramp), (left, head))
    for value, y in ((scale[1], head), (scale[0], head + height - 13)):
        draw.text((left + _BAR + 4, y), f"{value:.3g}", fill="black", font=font)
    return canvas
