"""Scores to look at: a table for notebooks, and maps side by side on one colour scale."""

import base64
import io
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from padim_jax.method.pictures import BAR, colour_bar, colours, levels, overlay

LARGEST = 100  # images in a picture
_ROWS = 20  # in a table
_THUMBNAIL = 64  # pixels of its longer side
_COLUMNS = 4
_GAP, _HEAD, _LABELS = 6, 20, 44


def table(scores: Any) -> str | None:
    """Score, p-value and verdict of the first images with their maps, in HTML; None where there are no values yet."""
    if any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(scores)):
        return None
    values, maps = np.asarray(scores.image_score)[:_ROWS], np.asarray(scores.anomaly_map[:_ROWS])
    scale, n = _scale(maps), len(scores.image_score)
    p_values, verdicts = scores.p_value, scores.anomalous
    names = ("image", "map", "score", *(() if p_values is None or verdicts is None else ("p-value", "verdict")))
    header = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for index, (value, one_map) in enumerate(zip(values, maps, strict=True)):
        cells = [str(index), f'<img src="{_thumbnail(one_map, scale)}" alt="map {index}">', f"{value:.4g}"]
        if p_values is not None and verdicts is not None:
            cells += [f"{p_values[index]:.4g}", "anomalous" if verdicts[index] else "normal"]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = f"<p>and {n - _ROWS} more images</p>" if n > _ROWS else ""
    summary = f"<p>{n} images; maps from {scale[0]:.4g} to {scale[1]:.4g}</p>"
    return f"<div>{summary}<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}</div>"


def maps_picture(scores: Any, images: UInt8[Any, "n height width 3"] | None) -> Image.Image:
    """Maps, or maps over their images, in rows of four under their scores, with the colour scale at the right.

    Raises:
      ValueError: images of another number or size than the maps; none, or more than ``LARGEST``.
    """
    maps, values = np.asarray(scores.anomaly_map), np.asarray(scores.image_score)
    n = len(maps)
    if not 1 <= n <= LARGEST:
        raise ValueError(
            f"Scores.picture: {n} images, wanted 1 to {LARGEST}; take some by "
            f"jax.tree.map(lambda a: a[:{LARGEST}], scores)"
        )
    pixels = None if images is None else np.asarray(images)
    if pixels is not None and (pixels.shape != (*maps.shape, 3) or pixels.dtype != np.uint8):
        raise ValueError(
            f"Scores.picture: images are {pixels.dtype} {pixels.shape}, wanted uint8 {(*maps.shape, 3)}, "
            "those that were scored"
        )
    (height, width), scale = maps.shape[1:], _scale(maps)
    columns = min(n, _COLUMNS)
    rows = -(-n // columns)
    cell = width + _GAP, height + _HEAD
    canvas = Image.new("RGB", (columns * cell[0] + _GAP + BAR + _LABELS, rows * cell[1] + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for index, (value, one_map) in enumerate(zip(values, maps, strict=True)):
        left, top = _GAP + index % columns * cell[0], index // columns * cell[1]
        verdict = "" if scores.anomalous is None else "  anomalous" if scores.anomalous[index] else "  normal"
        draw.text((left, top + 4), f"{value:.4g}{verdict}", fill="black", font=font)
        picture = _colour(one_map, scale) if pixels is None else overlay(pixels[index], np.nan_to_num(one_map), scale)
        canvas.paste(Image.fromarray(picture), (left, top + _HEAD))
    colour_bar(canvas, columns * cell[0] + _GAP, _HEAD, height, scale)
    return canvas


def _scale(maps: Float[np.ndarray, "n height width"]) -> tuple[float, float]:
    finite = maps[np.isfinite(maps)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _colour(
    anomaly_map: Float[np.ndarray, "height width"], scale: tuple[float, float]
) -> UInt8[np.ndarray, "height width 3"]:
    return np.rint(colours(levels(np.nan_to_num(anomaly_map), scale))).astype(np.uint8)


def _thumbnail(anomaly_map: Float[np.ndarray, "height width"], scale: tuple[float, float]) -> str:
    picture, stream = Image.fromarray(_colour(anomaly_map, scale)), io.BytesIO()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
