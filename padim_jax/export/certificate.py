"""The certificate beside an export: what it was compared with, how far it was off, and the digest of every file.

It guards against decay, mix-ups and careless edits: a file that changed, another export's file, a number corrected by
hand. It is not signed, so it can't tell an honest certificate from one that somebody has made anew with its checksum.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.config import PadimConfig
from padim_jax.export.archives import read_arrays
from padim_jax.export.compare import Decision, Differences, Outputs
from padim_jax.export.describe import ExportError
from padim_jax.export.inputs import ProgramInput
from padim_jax.export.runtimes import DATA, FILES
from padim_jax.export.shipped import target_files
from padim_jax.export.worst_case import WorstCaseReport

CERTIFICATE, REFERENCE = "certificate.json", "reference.npz"
READING = ("image_size", "crop_size", "resize", "interpolation", "value_range")
FORMAT = "padim_jax export"
SCHEMA, SCHEMA_UNFIT = 2, 3  # the later where a runtime is unfit, which readers of the earlier would pass over
AGAIN = "export the model again"
_THRESHOLDS = ("threshold", "pixel_threshold", "least_match")
_MOST_COMPRESSED = 64  # bytes of arrays over bytes of the file; among the images are two of noise
_MOST_SCALE = 1e3  # over the largest distance in any map; standardised maps have larger scales than distances


@dataclass(frozen=True)
class RuntimeReport:
    """How far one runtime is from the model.

    Attributes:
      name, version: of the runtime.
      differences: over all images.
      seconds: that it took for them.
    """

    name: str
    version: str
    differences: Differences
    seconds: float


@dataclass(frozen=True)
class GoodImage:
    """What the model says about an image that was given, without the image.

    Attributes:
      pixels: SHA-256 in hex of its pixels as the program takes them.
      scale: what differences of its map are held against (:func:`padim_jax.export.compare.map_scales`).
      image_score, p_value, anomalous: as of :class:`padim_jax.method.records.Scores`.
    """

    pixels: str
    scale: float
    image_score: float
    p_value: float | None = None
    anomalous: bool | None = None


@dataclass(frozen=True)
class Certificate:
    """What ``certificate.json`` says.

    Attributes:
      padim_jax: version that made the export.
      model: digest of the model (:func:`padim_jax.export.describe.model_digest`).
      exported: the format, "onnx", "openvino" or "stablehlo".
      precision: of the network, "float32", "int8" or "bfloat16".
      batch: how many images the graph takes; None for any number.
      photo: height and width of photos that the graph takes; None where it takes images of the crop's size.
      reading: the settings by which files become images of the crop's size.
      files: SHA-256 in hex and bytes of every file beside it, by name.
      bound: what differences may be, relative to the map's scale.
      runtimes: one report for each runtime that the program may be run in.
      unfit: one for each that it must not be run in, since it rounds otherwise and is beyond the bound.
      good: the images that were given.
      hostile: how many others there were.
      factor_error: by how much integers in the factors move a product of theirs, root mean square in its standard
        deviations (:class:`padim_jax.gaussians.integer_products.IntegerWhitening`); None where they are no integers.
      notes: what the model was fitted anew on, and what became of its weights and factors, and why, in words.
      worst_case: what compacting the model changes distances by; None of models that were not, or that do not say so.
      made: when, in UTC.
    """

    padim_jax: str
    model: str
    exported: str
    precision: str
    batch: int | None
    photo: tuple[int, int] | None
    reading: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    bound: float
    runtimes: tuple[RuntimeReport, ...]
    unfit: tuple[RuntimeReport, ...]
    good: tuple[GoodImage, ...]
    hostile: int
    factor_error: float | None
    notes: tuple[str, ...]
    worst_case: WorstCaseReport | None
    made: str

    @property
    def settings(self) -> PadimConfig:
        """Settings that read files as the model does; the others are defaults."""
        values: Mapping[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in self.reading.items()}
        return PadimConfig(**values)

    @property
    def taken(self) -> ProgramInput:
        """What the program takes."""
        return ProgramInput(self.settings, self.photo)

    @property
    def largest(self) -> float:
        """The largest relative difference in any runtime that is fit."""
        return max((report.differences.relative for report in self.runtimes), default=np.inf)

    def text(self) -> str:
        """The file's content."""
        schema = SCHEMA_UNFIT if self.unfit else SCHEMA
        record = {"format": FORMAT, "schema": schema, **asdict(self)}
        if schema == SCHEMA:
            del record["unfit"]
        record["files"] = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in self.files.items()}
        return json.dumps({**record, "checksum": manifest_checksum(json.loads(json.dumps(record)))}, indent=1) + "\n"


@dataclass(frozen=True)
class Reference:
    """What the model says about the images that are stored with an export, and what its verdicts follow from.

    Attributes:
      images: uint8 RGB, as the program takes them.
      image_score, anomaly_map: of them, by the model.
      scale: what differences of each map are held against.
      decision: None where the model is not calibrated.
      p_value, anomalous: None likewise.
    """

    images: UInt8[np.ndarray, "n rows columns 3"]
    image_score: Float[np.ndarray, " n"]
    anomaly_map: Float[np.ndarray, "n height width"]
    scale: Float[np.ndarray, " n"]
    decision: Decision | None = None
    p_value: Float[np.ndarray, " n"] | None = None
    anomalous: Bool[np.ndarray, " n"] | None = None

    @property
    def outputs(self) -> Outputs:
        """What a runtime should give."""
        names = ["image_score", "anomaly_map", *(["p_value", "anomalous"] if self.decision is not None else [])]
        return {name: getattr(self, name) for name in names}

    def write(self, path: Path) -> None:
        """Write it as a file."""
        arrays = {"images": self.images, "scale": self.scale, **self.outputs}
        if self.decision is not None:
            arrays |= vars(self.decision)
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path, certificate: Certificate) -> "Reference":
        """Read a file that :meth:`write` wrote beside a certificate; ``ExportError`` where it is none."""
        n, (height, width) = certificate.hostile, certificate.settings.crop
        single, double = np.dtype(np.float32), np.dtype(np.float64)
        expected: dict[str, tuple[np.dtype, tuple[int | None, ...]]] = {
            "images": (np.dtype(np.uint8), (n, *certificate.taken.size, 3)),
            "scale": (double, (n,)),
            "image_score": (single, (n,)),
            "anomaly_map": (single, (n, height, width)),
        }
        judged = expected | {
            "p_value": (single, (n,)),
            "anomalous": (np.dtype(bool), (n,)),
            "good_scores": (single, (None,)),
            **{name: (double, ()) for name in _THRESHOLDS},
        }
        try:
            with zipfile.ZipFile(path) as archive:
                is_judged = "good_scores.npy" in archive.namelist()
            arrays = read_arrays(path, judged if is_judged else expected, most_compressed=_MOST_COMPRESSED)
            decision = None
            if is_judged:
                thresholds = [float(arrays.pop(name)) for name in _THRESHOLDS]
                decision = Decision(arrays.pop("good_scores"), *thresholds)
                if not np.isfinite(decision.good_scores).all() or np.isnan(thresholds).any():
                    raise ValueError("its calibration is not of numbers")
            reference = cls(**arrays, decision=decision)
            _check_scales(reference)
        except Exception as error:  # a zip file can be damaged in many ways
            raise ExportError(f"verify_export: {path} is damaged ({error}); {AGAIN}") from error
        return reference


def _check_scales(reference: Reference) -> None:
    numbers = (reference.image_score, reference.anomaly_map, reference.scale)
    if not all(np.isfinite(values).all() for values in numbers) or (reference.scale < 0).any():
        raise ValueError("its scores, maps and scales are not of numbers")
    largest = float(np.abs(reference.anomaly_map).max())
    if reference.decision is not None and len(reference.decision.good_scores):
        largest = max(largest, float(np.median(reference.decision.good_scores)))
    if (scale := float(reference.scale.max())) > _MOST_SCALE * largest:
        raise ValueError(f"its maps are on a scale of {scale:.2g}, and none is above {largest:.2g}")


def digest_files(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """SHA-256 in hex and bytes of files in a folder, by name."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[name] = digest, (folder / name).stat().st_size
    return found


def files_of(
    exported: str, targets: Iterable[str] = (), examples: int = 0, *, has_data: bool = False
) -> tuple[str, ...]:
    """The files of an export beside its certificate.

    Args:
      exported: the format.
      targets: folders for runtimes.
      examples: how many images there are in the folder of examples, which comes with those.
      has_data: whether arrays lie in a file beside an ONNX graph.
    """
    data = (DATA,) if has_data and exported == "onnx" else ()
    return (*FILES[exported], *data, REFERENCE, *target_files(targets, examples))
