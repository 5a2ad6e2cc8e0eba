"""What an exported graph takes and gives, in words that its file carries; and a digest of the model in it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import jax
import numpy as np

from padim_jax.method.records import Padim

IMAGES = "images"  # the input's name
OUTPUTS: Mapping[str, tuple[type, str]] = {
    "image_score": (np.float32, "(n,): whether there is a defect; higher is further from normal"),
    "anomaly_map": (np.float32, "(n, height, width), in the units of the score: where it is"),
    "p_value": (np.float32, "(n,), in (0, 1]: how rarely a good image scores as much"),
    "anomalous": (np.bool_, "(n,): whether the score is above the threshold of the calibration"),
    "mask": (np.bool_, "(n, height, width): the pixels of the map above the pixel threshold of the calibration"),
    "match": (np.float32, "(n,), from -1 to 1: how well images match the reference that they are aligned to"),
}


class ExportError(ValueError):
    """An export that can't be made, or one that is not what it should be; the message says why and what to do."""


def output_names(model: Padim) -> list[str]:
    """Names of the outputs of a model's graph; without a calibration there are no p-value, verdict and mask."""
    judged = ("p_value", "anomalous", "mask") if model.calibration is not None else ()
    return ["image_score", "anomaly_map", *judged, *(["match"] if model.alignment is not None else [])]


def descriptions(model: Padim, photo: tuple[int, int] | None = None) -> dict[str, str]:
    """Input and outputs in words, by name.

    Args:
      model: any.
      photo: height and width of the photos that the graph takes; None for images of the crop's size.
    """
    (height, width), (rows, columns) = photo or model.config.crop, model.config.crop
    read = "resized and cropped as padim does"
    if photo is not None:
        read = "an upright photo, which is resized and cropped here"
    units = "standard deviations of good images' maps" if model.standard is not None else "Mahalanobis distances"
    text = {IMAGES: f"uint8 (n, {height}, {width}, 3): RGB from 0 to 255, {read}"}
    text |= {name: OUTPUTS[name][1] for name in output_names(model)}
    text["anomaly_map"] += f"; {units}"
    if photo is not None:
        for name in ("anomaly_map", "mask"):
            if name in text:
                text[name] += f"; of the crop of {rows}×{columns}, not of the photo"
    if model.calibration is not None:
        text["anomalous"] += f", {float(model.calibration.threshold)!r}"
        text["mask"] += f", {float(model.calibration.pixel_threshold)!r}"
    return text


def model_digest(model: Padim) -> str:
    """SHA-256 in hex over settings and all numbers that scores depend on.

    The weights count by their own digest. Two models that score alike to the last bit can have different digests, such
    as one that scores by triangular solves and the same by inverse factors. Other digests are other numbers, but equal
    ones are equal models only of networks that padim brings: of a network of one's own, the weights count and not the
    code, and :func:`padim_jax.export.verify_export` tells by running it.
    """
    digest = hashlib.sha256()
    settings = {
        "config": dataclasses.asdict(model.config),
        "embedding": dataclasses.asdict(model.embedding),
        "solver": model.gaussian.solver,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    without = dataclasses.replace(model, backbone=None)  # pyright: ignore[reportArgumentType] - its digest is told
    for path, leaf in jax.tree_util.tree_leaves_with_path(without):
        array = np.asarray(leaf)
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{jax.tree_util.keystr(path)}{little.dtype.str}{little.shape}".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()
