"""The certificate beside an export: what it was compared with, how far it was off, and the digest of every file.

It guards against decay, mix-ups and careless edits: a file that changed, another export's file, a number corrected by
hand. It is not signed, so it can't tell an honest certificate from one that somebody has made anew with its checksum.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.artifact.ownership import MARKER
from padim_jax.config import PadimConfig
from padim_jax.export.compare import BOUND, Decision, Differences, Outputs
from padim_jax.export.describe import ExportError
from padim_jax.export.runtimes import FILES

CERTIFICATE, REFERENCE = "certificate.json", "reference.npz"
READING = ("image_size", "crop_size", "resize", "interpolation", "value_range")
_FORMAT, _SCHEMA = "padim_jax export", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AGAIN = "export the model again"


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
      pixels: SHA-256 in hex of its pixels as the model sees them.
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
      exported: the format, "onnx" or "stablehlo".
      batch: how many images the graph takes; None for any number.
      reading: the settings by which files become images of the crop's size.
      files: SHA-256 in hex and bytes of every file beside it, by name.
      bound: what differences may be, relative to the map's scale.
      runtimes: one report for each runtime.
      good: the images that were given.
      hostile: how many others there were.
      made: when, in UTC.
    """

    padim_jax: str
    model: str
    exported: str
    batch: int | None
    reading: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    bound: float
    runtimes: tuple[RuntimeReport, ...]
    good: tuple[GoodImage, ...]
    hostile: int
    made: str

    @property
    def settings(self) -> PadimConfig:
        """Settings that read files as the model does; the others are defaults."""
        values: Mapping[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in self.reading.items()}
        return PadimConfig(**values)

    @property
    def largest(self) -> float:
        """The largest relative difference in any runtime."""
        return max((report.differences.relative for report in self.runtimes), default=np.inf)

    def text(self) -> str:
        """The file's content."""
        record = {"format": _FORMAT, "schema": _SCHEMA, **asdict(self)}
        record["files"] = {name: {"sha256": digest, "bytes": size} for name, (digest, size) in self.files.items()}
        return json.dumps({**record, "checksum": manifest_checksum(json.loads(json.dumps(record)))}, indent=1) + "\n"


@dataclass(frozen=True)
class Reference:
    """What the model says about the images that are stored with an export, and what its verdicts follow from.

    Attributes:
      images: uint8 RGB of the crop's size.
      image_score, anomaly_map: of them, by the model.
      scale: what differences of each map are held against.
      decision: None where the model is not calibrated.
      p_value, anomalous: None likewise.
    """

    images: UInt8[np.ndarray, "n height width 3"]
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
    def read(cls, path: Path) -> "Reference":
        """Read a file that :meth:`write` wrote; ``ExportError`` where it is none."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            decision = None
            if "good_scores" in arrays:
                thresholds = [float(arrays.pop(name)) for name in ("threshold", "pixel_threshold", "least_match")]
                decision = Decision(arrays.pop("good_scores"), *thresholds)
            reference = cls(**arrays, decision=decision)
            n = len(reference.images)
            if n == 0 or any(len(values) != n for values in (reference.scale, *reference.outputs.values())):
                raise ValueError("its arrays are of different numbers of images")
        except Exception as error:  # a zip file can be damaged in many ways
            raise ExportError(f"verify_export: {path} is damaged ({error}); {_AGAIN}") from error
        return reference


def pixels_digest(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """SHA-256 in hex of an image's pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def digest_files(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """SHA-256 in hex and bytes of files in a folder, by name."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[name] = digest, (folder / name).stat().st_size
    return found


def files_of(exported: str) -> tuple[str, ...]:
    """The files of an export beside its certificate."""
    return (*FILES[exported], REFERENCE)


def read_certificate(folder: Path) -> Certificate:
    """The certificate in ``folder``, once it and all files are found to be as they were written.

    Raises:
      ExportError: no certificate, one that was changed, or a file that is missing, changed, or not of the export.
    """
    path = folder / CERTIFICATE
    if not path.is_file() or path.is_symlink():
        raise ExportError(f"verify_export: {folder} is no export: it has no {CERTIFICATE} (padim export writes one)")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        checksum, own = record.pop("checksum"), record.pop("format")
        schema = record.pop("schema")
        if own != _FORMAT:
            raise ValueError(f"it is of {own!r}")
        if schema != _SCHEMA:
            raise ValueError(f"its schema is {schema!r}, this version reads {_SCHEMA}")
        if checksum != manifest_checksum({"format": own, "schema": schema, **record}):
            raise ValueError("its checksum differs: it was changed after it was written")
        certificate = _parse(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ExportError(f"verify_export: {path} is not as it was written ({what}); {_AGAIN}") from error
    _check_claims(path, certificate)
    _check_files(folder, certificate)
    return certificate


def _parse(record: dict[str, Any]) -> Certificate:
    reports = [
        RuntimeReport(
            str(report["name"]), str(report["version"]), _differences(report["differences"]), float(report["seconds"])
        )
        for report in record.pop("runtimes")
    ]
    files = {str(name): (str(file["sha256"]), int(file["bytes"])) for name, file in record.pop("files").items()}
    good = tuple(GoodImage(**image) for image in record.pop("good"))
    record["bound"] = float(record["bound"])
    certificate = Certificate(**record, runtimes=tuple(reports), good=good, files=files)
    if {*certificate.reading} != {*READING}:
        raise ValueError(f"its reading is {certificate.reading!r}")
    _ = certificate.settings  # which checks their values
    return certificate


def _differences(record: Mapping[str, Any]) -> Differences:
    counts = ("images", "flipped")
    values: dict[str, Any] = {name: (int if name in counts else float)(value) for name, value in record.items()}
    return Differences(**values)


def _check_claims(path: Path, certificate: Certificate) -> None:
    """What no honest certificate says, whatever its checksum."""
    digests = [certificate.model, *(digest for digest, _ in certificate.files.values())]
    largest, bound = certificate.largest, certificate.bound
    faults = {
        f"it is of format {certificate.exported!r}": certificate.exported not in FILES,
        f"its bound is {bound!r}, not {BOUND:g} or less": not 0 < bound <= BOUND,
        "it names no runtime": not certificate.runtimes,
        f"it claims a difference of {largest:.2g}, beyond its bound": not 0 <= largest <= bound,
        "a digest in it is none": not all(map(_DIGEST.fullmatch, digests)),
    }
    if not any(faults.values()):
        wanted, claimed = {*files_of(certificate.exported)}, {*certificate.files}
        faults |= {f"it claims the file {name!r}, which no such export has": True for name in sorted(claimed - wanted)}
        faults |= {f"it does not claim {name!r}": True for name in sorted(wanted - claimed)}
    for fault, is_there in faults.items():
        if is_there:
            raise ExportError(f"verify_export: {path} can't be right: {fault}; {_AGAIN}")


def _check_files(folder: Path, certificate: Certificate) -> None:
    for name in certificate.files:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise ExportError(f"verify_export: {folder / name} is missing; copy the export again, as a whole folder")
    found = digest_files(folder, [*certificate.files])
    if changed := [name for name in found if found[name] != certificate.files[name]]:
        raise ExportError(
            f"verify_export: {folder / changed[0]} is not the file that was certified (its SHA-256 differs); copy the "
            f"export again, or {_AGAIN}"
        )
    if others := sorted({path.name for path in folder.iterdir()} - {*certificate.files, CERTIFICATE, MARKER}):
        raise ExportError(
            f"verify_export: {folder / others[0]} is not of the export, and nobody has certified it; move it away"
        )
