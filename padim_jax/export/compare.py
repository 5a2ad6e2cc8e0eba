"""How far what a runtime gives is from what the model gives, and which images show it.

A map of a model and the map of its export are rounded differently. What rounding does to a distance grows with the
activations that it is made of, and not with the distance: an image that the model was fitted on lies within 1 of the
mean where one that it does not know lies at 100, and both are off by the same. So a difference is held against the
scale of the map: the largest distance in it, or what a good image has that the model does not know, where that is more.
The latter is the median of the calibration's scores; without one it is known of models that were fitted anew, and else
it is not. Standardised maps
``z = (M - m) / s`` may be as good as 0 everywhere, and are rounded as M is: their scale is the largest
``M / s = z + m / s``, or the largest m / s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from padim_jax.export.describe import ExportError
from padim_jax.method.calibration import conformal_p_values
from padim_jax.method.records import Padim

# Relative to the map's scale. In float32, ONNX Runtime and OpenVINO stay below 1e-5. What is wrong is far beyond: of
# Lite0, a blur that is one percent too wide is off by 2e-3, a network in bfloat16 by 5e-2, another padding by 2.
BOUND = 1e-4
# In eight bits runtimes round to other integers, and in bfloat16 processors add up otherwise: they differ by some
# hundredths, and a wrong network by far more.
BOUNDS = {"float32": BOUND, "int8": 0.1, "bfloat16": 0.1}
_ROUNDING = 1e-6  # of a p-value: the division of two small integers
_MATCH = 1e-3  # of a match, a correlation of many pixels in float32; those of good and of foreign images lie far apart

Outputs = Mapping[str, np.ndarray]  # by name
Run = Callable[[np.ndarray], Outputs]


@dataclass(frozen=True)
class Differences:
    """The largest differences over some images.

    Attributes:
      images: how many.
      map_absolute, map_relative: of any pixel of a map; relative to the scale of its map.
      score_absolute, score_relative: of image scores, likewise.
      p_value: of p-values; 0 without a calibration.
      flipped: how many verdicts differ, of scores that lie as close to the threshold as they differ.
    """

    images: int = 0
    map_absolute: float = 0.0
    map_relative: float = 0.0
    score_absolute: float = 0.0
    score_relative: float = 0.0
    p_value: float = 0.0
    flipped: int = 0

    @property
    def relative(self) -> float:
        """The larger of the two that are bounded."""
        return max(self.map_relative, self.score_relative)

    def __add__(self, other: "Differences") -> "Differences":
        largest = ("map_absolute", "map_relative", "score_absolute", "score_relative", "p_value")
        return Differences(
            images=self.images + other.images,
            flipped=self.flipped + other.flipped,
            **{name: max(getattr(self, name), getattr(other, name)) for name in largest},
        )


@dataclass(frozen=True)
class Decision:
    """What p-values, verdicts and masks follow from.

    Attributes:
      good_scores: float32 (n,), ascending.
      threshold: of scores.
      pixel_threshold: of maps.
      least_match: images that match a reference less are anomalous too; minus infinity where images are not aligned.
    """

    good_scores: Float[np.ndarray, " n"]
    threshold: float
    pixel_threshold: float
    least_match: float = -np.inf

    @classmethod
    def of(cls, model: Padim) -> "Decision | None":
        """That of a model; None where it is not calibrated."""
        if model.calibration is None:
            return None
        found = model.calibration
        match = -np.inf if found.least_match is None else float(found.least_match)
        return cls(np.asarray(found.scores), float(found.threshold), float(found.pixel_threshold), match)

    def check(self, runtime: str, found: Outputs) -> None:
        """Raise ``ExportError`` where what a runtime decides does not follow from its own scores and maps."""
        scores, maps = found["image_score"], found["anomaly_map"]
        unlike = ~(found["match"] >= np.float32(self.least_match)) if "match" in found else False
        wanted = {
            "p_value": conformal_p_values(self.good_scores, np.asarray(scores, np.float32)),
            "anomalous": ~(scores <= np.float32(self.threshold)) | unlike,
            "mask": maps > np.float32(self.pixel_threshold),
        }
        for name, values in wanted.items():
            far = ~(np.abs(found[name].astype(np.float64) - values) <= _ROUNDING)  # what is no number is far too
            if far.any():
                raise ExportError(
                    f"{runtime}: {name} of {int(far.any(axis=(*range(1, far.ndim),)).sum())} images does not follow "
                    "from the scores by the calibration; the export is not one of this model"
                )

    def check_like(self, runtime: str, wanted: Outputs, found: Outputs, scale: Float[np.ndarray, " n"]) -> None:
        """Raise ``ExportError`` where a runtime decides otherwise than the model, and no rounding explains it.

        A verdict may differ where the score lies as close to the threshold as scores may differ, or the match to the
        least one; a p-value is that of a score that close. Where scores differ by more, the bound refuses them.
        """
        scores = wanted["image_score"].astype(np.float64)
        near = np.maximum(BOUND * scale, np.abs(found["image_score"] - scores))
        unlike: dict[str, np.ndarray] = {"match": np.zeros(len(scores), bool)}
        if "match" in wanted:
            unlike["match"] = ~(np.abs(wanted["match"] - found["match"]) <= _MATCH)
        if "anomalous" in wanted:
            explained = np.abs(scores - self.threshold) <= near
            if "match" in found:
                match = wanted.get("match", found["match"])
                explained |= np.abs(match - self.least_match) <= _MATCH
            unlike["anomalous"] = (wanted["anomalous"] != found["anomalous"]) & ~explained
            lowest, highest = (conformal_p_values(self.good_scores, at) for at in (scores + near, scores - near))
            given = np.stack([wanted["p_value"], found["p_value"]])
            is_between = (np.asarray(lowest) - _ROUNDING <= given) & (given <= np.asarray(highest) + _ROUNDING)
            unlike["p_value"] = np.logical_not(is_between.all(axis=0))
        for name, far in unlike.items():
            if far.any():
                raise ExportError(
                    f"{runtime}: {name} of {int(far.sum())} images is not what the model gives, and no rounding of "
                    "scores explains it; the export is not one of this model"
                )

    def is_that_of(self, other: "Decision | None") -> bool:
        """Whether two are the same to the last bit."""
        return other is not None and all(
            np.array_equal(value, getattr(other, name)) for name, value in vars(self).items()
        )


def map_scales(model: Padim, maps: Float[np.ndarray, "n height width"], usual: float = 0.0) -> Float[np.ndarray, " n"]:
    """What differences are held against, of each map and in its units; see the top of this module.

    Args:
      model: the maps are of.
      maps: by it.
      usual: what a good image scores that the model does not know; a calibration says it better.
    """
    if model.standard is not None:
        mean = np.asarray(model.standard.mean) / np.asarray(model.standard.spread)
        maps, usual = maps + mean[None], float(mean.max())
    elif model.calibration is not None:
        usual = float(np.median(np.asarray(model.calibration.scores)))
    return np.maximum(np.abs(maps).max(axis=(1, 2)), usual).astype(np.float64)


def differences(wanted: Outputs, found: Outputs, scale: Float[np.ndarray, " n"]) -> Differences:
    """Of n images; infinite where a number is none, or a map is other than 0 where the model's are 0 altogether."""
    maps, scores = _gaps(wanted, found)
    p = _gap(wanted["p_value"], found["p_value"]) if "p_value" in wanted else np.zeros(len(scale))
    flipped = (wanted["anomalous"] != found["anomalous"]).sum() if "anomalous" in wanted else 0
    return Differences(
        images=len(scale),
        map_absolute=float(maps.max(initial=0)),
        map_relative=float(_relative(maps, scale).max(initial=0)),
        score_absolute=float(scores.max(initial=0)),
        score_relative=float(_relative(scores, scale).max(initial=0)),
        p_value=float(p.max(initial=0)),
        flipped=int(flipped),
    )


def relative_differences(wanted: Outputs, found: Outputs, scale: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """What :func:`differences` bounds, of each image by itself."""
    return _relative(np.maximum(*_gaps(wanted, found)), scale)


def hostile_images(size: tuple[int, int]) -> UInt8[np.ndarray, "6 height width 3"]:
    """Images that are far from any good one: black, white, noise, saturated, a ramp, a chessboard of single pixels."""
    rng = np.random.default_rng(0)
    height, width = size
    images = np.zeros((6, height, width, 3), np.uint8)  # photos are large: none is made in wider numbers first
    _, white, noise, saturated, ramp, chessboard = images
    white[:] = 255
    for image, values, worth in ((noise, 256, 1), (saturated, 2, 255)):
        for row in image:  # drawn by rows, which gives the numbers that one drawing of all does
            row[:] = worth * rng.integers(0, values, row.shape)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    ramp[..., 0] = 255 * rows // max(1, height - 1)
    ramp[..., 1] = 255 * columns // max(1, width - 1)
    np.add(rows.astype(np.uint8), columns.astype(np.uint8), out=ramp[..., 2])  # modulo 256
    np.multiply((ramp[..., 2] % 2)[..., None], 255, out=chessboard)
    return images


def check_outputs(runtime: str, found: Outputs, n: int, size: tuple[int, int], *, judged: bool) -> None:
    """Raise ``ExportError`` where a runtime gives other outputs than those of n images of a size, by name and shape."""
    shapes: dict[str, tuple[int, ...]] = {"image_score": (n,), "anomaly_map": (n, *size)}
    if judged:
        shapes |= {"p_value": (n,), "anomalous": (n,), "mask": (n, *size)}
    if "match" in found:  # of aligned models
        shapes["match"] = (n,)
    given = {name: np.shape(value) for name, value in found.items()}
    if given != shapes:
        raise ExportError(f"{runtime}: it gives {given}, wanted {shapes}; the export is not one of this model")


def run_in_batches(run: Run, images: UInt8[np.ndarray, "n height width 3"], batch: int | None) -> dict[str, np.ndarray]:
    """Outputs of all images by a graph that takes ``batch`` at a time, the last batch filled up; None for any."""
    if batch is None:
        return dict(run(images))
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        parts.append({name: value[: len(part)] for name, value in run(filled).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _gaps(wanted: Outputs, found: Outputs) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How far each image's map is off where it is farthest, 0 where there is none, and its score."""
    scores = _gap(wanted["image_score"], found["image_score"])
    if "anomaly_map" not in wanted:
        return np.zeros(len(scores)), scores
    return _gap(wanted["anomaly_map"], found["anomaly_map"]).max(axis=(1, 2)), scores


def _gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return np.where(np.isfinite(gap), gap, np.inf)


def _relative(gap: np.ndarray, scale: np.ndarray) -> np.ndarray:
    known = np.where(scale > 0, gap / np.where(scale > 0, scale, 1), np.inf)
    return np.where(gap == 0, 0, known)
