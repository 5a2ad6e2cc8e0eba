"""Read the certificate of an export, which anybody may have made: every entry is checked, and every file."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from padim_jax.artifact.manifest import manifest_checksum
from padim_jax.artifact.ownership import MARKER
from padim_jax.export.certificate import (
    AGAIN,
    CERTIFICATE,
    FORMAT,
    READING,
    SCHEMA,
    SCHEMA_UNFIT,
    Certificate,
    GoodImage,
    RuntimeReport,
    digest_files,
    files_of,
)
from padim_jax.export.compare import BOUND, BOUNDS, Differences
from padim_jax.export.describe import ExportError
from padim_jax.export.fitness import may_be_unfit
from padim_jax.export.resampling import plan_resampling
from padim_jax.export.runtimes import DATA, FILES, FORMATS, MOST_IMAGES, OWN
from padim_jax.export.shipped import claimed_targets, runtimes_of, strangers
from padim_jax.export.worst_case import ROUNDING, WorstCaseReport

_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_certificate(folder: Path) -> Certificate:
    """The certificate in ``folder``, once it and all files are found to be as they were written.

    Raises:
      ExportError: no certificate, one that was changed, or a file that is missing, changed, or not of the export.
    """
    path = folder / CERTIFICATE
    if not path.is_file() or path.is_symlink():
        raise ExportError(f"verify_export: {folder} is no export: it has no {CERTIFICATE} (padim export writes one)")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
        checksum, own = record.pop("checksum"), record.pop("format")
        schema = record.pop("schema")
        if own != FORMAT:
            raise ValueError(f"it is of {own!r}")
        if schema == 1:
            raise ExportError(f"verify_export: {path} was made by an earlier version of padim; {AGAIN}")
        if schema not in (SCHEMA, SCHEMA_UNFIT):
            raise ValueError(f"its schema is {schema!r}, this version reads {SCHEMA} and {SCHEMA_UNFIT}")
        if checksum != manifest_checksum({"format": own, "schema": schema, **record}):
            raise ValueError("its checksum differs: it was changed after it was written")
        if schema == SCHEMA and "unfit" in record:
            raise ValueError(f"it has 'unfit', and its schema is {SCHEMA}")
        certificate = _parse(record if schema == SCHEMA_UNFIT else {**record, "unfit": []})
    except ExportError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ExportError(f"verify_export: {path} is not as it was written ({what}); {AGAIN}") from error
    _check_claims(path, certificate)
    _check_files(folder, certificate)
    return certificate


def _parse(record: dict[str, Any]) -> Certificate:
    """A certificate of a file's record; ``KeyError``, ``TypeError`` or ``ValueError`` where it is none."""
    _check_names("it", record, [field.name for field in fields(Certificate)])
    certificate = Certificate(
        padim_jax=_text(record, "padim_jax"),
        model=_digest(record, "model"),
        exported=_text(record, "exported"),
        precision=_text(record, "precision"),
        batch=None if record["batch"] is None else _count(record, "batch", 1),
        photo=None if record["photo"] is None else _photo(record),
        reading=_mapping(record, "reading"),
        files={name: (_digest(file, "sha256"), _count(file, "bytes", 0)) for name, file in _files(record).items()},
        bound=_number(record, "bound"),
        runtimes=tuple(map(_report, _list(record, "runtimes"))),
        unfit=tuple(map(_report, _list(record, "unfit"))),
        good=tuple(map(_good_image, _list(record, "good"))),
        hostile=_count(record, "hostile", 1),
        factor_error=None if record["factor_error"] is None else _number(record, "factor_error"),
        notes=tuple(_text({"note": note}, "note") for note in _list(record, "notes")),
        worst_case=None if record["worst_case"] is None else _worst_case(record["worst_case"]),
        made=_text(record, "made"),
    )
    datetime.fromisoformat(certificate.made)
    if {*certificate.reading} != {*READING}:
        raise ValueError(f"its reading is {certificate.reading!r}")
    _ = certificate.settings  # which checks their values
    return certificate


def _photo(record: Mapping[str, Any]) -> tuple[int, int]:
    sides = _list(record, "photo")
    if len(sides) != 2:
        raise ValueError(f"its photo is {sides!r:.80}, wanted height and width")
    height, width = (_count({"photo": side}, "photo", 1) for side in sides)
    return height, width


def _report(record: Any) -> RuntimeReport:
    _check_names("a runtime", record, [field.name for field in fields(RuntimeReport)])
    found = _mapping(record, "differences")
    names = [field.name for field in fields(Differences)]
    _check_names("differences", found, names)
    counts = ("images", "flipped")
    values: dict[str, Any] = {n: _count(found, n, 0) if n in counts else _number(found, n) for n in names}
    return RuntimeReport(
        _text(record, "name"), _text(record, "version"), Differences(**values), _number(record, "seconds")
    )


def _worst_case(record: Any) -> WorstCaseReport:
    names = [field.name for field in fields(WorstCaseReport)]
    _check_names("its worst case", record, names)
    values: dict[str, Any] = {n: _count(record, n, 0) if n == "position" else _number(record, n) for n in names}
    return WorstCaseReport(**values)


def _good_image(record: Any) -> GoodImage:
    _check_names("an image", record, [field.name for field in fields(GoodImage)])
    p_value, anomalous = record["p_value"], record["anomalous"]
    if (p_value is None) != (anomalous is None) or not (anomalous is None or isinstance(anomalous, bool)):
        raise ValueError(f"an image's p-value is {p_value!r}, and its verdict {anomalous!r}")
    score = _number(record, "image_score", -math.inf)
    p_value = None if p_value is None else _number(record, "p_value")
    return GoodImage(_digest(record, "pixels"), _number(record, "scale"), score, p_value, anomalous)


def _check_names(what: str, record: Any, names: Sequence[str]) -> None:
    if not isinstance(record, dict):
        raise TypeError(f"{what} is {record!r:.80}")
    if missing := [name for name in names if name not in record]:
        raise KeyError(missing[0])
    if others := sorted(record.keys() - {*names}):
        raise ValueError(f"{what} has {others[0]!r}")


def _files(record: Mapping[str, Any]) -> Mapping[str, Any]:
    files = _mapping(record, "files")
    for name, file in files.items():
        _check_names(f"the file {name!r}", file, ("sha256", "bytes"))
    return files


def _text(record: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := record[name], str):
        raise TypeError(f"its {name} is {value!r:.80}, wanted text")
    return value


def _digest(record: Mapping[str, Any], name: str) -> str:
    if not _DIGEST.fullmatch(value := _text(record, name)):
        raise ValueError(f"its {name} is {value!r:.80}, wanted 64 hexadecimal digits")
    return value


def _count(record: Mapping[str, Any], name: str, least: int) -> int:
    value = record[name]
    if type(value) is not int or value < least:  # a bool is an int too
        raise ValueError(f"its {name} is {value!r:.80}, wanted a whole number, {least} or more")
    return value


def _number(record: Mapping[str, Any], name: str, least: float = 0.0) -> float:
    value = record[name]
    if type(value) not in (int, float) or not math.isfinite(value) or value < least:
        raise ValueError(f"its {name} is {value!r:.80}, wanted a finite number{', 0 or more' if least == 0 else ''}")
    return float(value)


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(value := record[name], list):
        raise TypeError(f"its {name} is {value!r:.80}, wanted a list")
    return value


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(value := record[name], dict):
        raise TypeError(f"its {name} is {value!r:.80}, wanted names and values")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; readers differ in which of two entries of a name they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has two entries of one name")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"it has {text} for a number")


def _check_claims(path: Path, certificate: Certificate) -> None:
    """What no honest certificate says, whatever its checksum."""
    largest, bound = certificate.largest, certificate.bound
    most = BOUNDS.get(certificate.precision, 0.0)
    faults = {
        f"it is of format {certificate.exported!r}": certificate.exported not in FILES,
        f"it is of precision {certificate.precision!r}": certificate.precision not in BOUNDS,
        f"it is of format {certificate.exported!r}, which has no {certificate.precision}": certificate.exported
        not in FORMATS.get(certificate.precision, FILES),
        "it has factors in integers beside a network of more bits": certificate.factor_error is not None
        and certificate.precision != "int8",
        f"its bound is {bound!r}, not {most:g} or less": not 0 < bound <= most,
        f"its program takes {certificate.batch} images at a time": (certificate.batch or 1) > MOST_IMAGES,
        "it names no runtime": not certificate.runtimes,
        "its worst case is beyond its own bound": certificate.worst_case is not None
        and max(certificate.worst_case.error, certificate.worst_case.difference)
        > certificate.worst_case.bound + ROUNDING,
        f"it claims a difference of {largest:.2g}, beyond its bound": not 0 <= largest <= bound,
        f"it claims a difference beyond {BOUND:g} in the runtime that its precision is made for": any(
            report.differences.relative > BOUND and report.name == OWN.get(certificate.exported)
            for report in certificate.runtimes
        ),
    }
    if not any(faults.values()):
        faults |= _false_exclusions(certificate)
        has_data = DATA in certificate.files
        wanted = {*files_of(certificate.exported, *claimed_targets(certificate.files), has_data=has_data)}
        claimed = {*certificate.files}
        faults |= {f"it claims the file {name!r}, which no such export has": True for name in sorted(claimed - wanted)}
        faults |= {f"it does not claim {name!r}": True for name in sorted(wanted - claimed)}
        no_batch = certificate.exported == "stablehlo" and certificate.batch is None
        faults["it says nothing of how many images its program takes"] = no_batch
        faults["it judges some images and not others"] = len({g.p_value is None for g in certificate.good}) > 1
    for fault, is_there in faults.items():
        if is_there:
            raise ExportError(f"verify_export: {path} can't be right: {fault}; {AGAIN}")
    if certificate.photo is not None:
        try:
            plan_resampling(certificate.photo, certificate.settings)
        except ExportError as error:
            reason = str(error).removeprefix("export_model: ")
            raise ExportError(f"verify_export: {path} can't be right: {reason}; {AGAIN}") from error


def _false_exclusions(certificate: Certificate) -> dict[str, bool]:
    """What no honest certificate says of runtimes that are unfit, and whether this one does."""
    names, shipped = {report.name for report in certificate.unfit}, claimed_targets(certificate.files)[0]
    exported, precision, bound = certificate.exported, certificate.precision, certificate.bound
    return {
        "it names as unfit a runtime that is not beyond its bound": any(
            report.differences.relative <= bound for report in certificate.unfit
        ),
        "it names as unfit a runtime that has to be fit": not all(
            may_be_unfit(report, exported, precision) for report in certificate.unfit
        ),
        "it names a runtime as fit and as unfit": bool(names & {report.name for report in certificate.runtimes}),
        "it holds a folder that runs it in a runtime that is unfit": bool(names & {*runtimes_of(shipped).values()}),
    }


def _check_files(folder: Path, certificate: Certificate) -> None:
    for name in certificate.files:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise ExportError(f"verify_export: {folder / name} is missing; copy the export again, as a whole folder")
    found = digest_files(folder, [*certificate.files])
    if changed := [name for name in found if found[name] != certificate.files[name]]:
        raise ExportError(
            f"verify_export: {folder / changed[0]} is not the file that was certified (its SHA-256 differs); copy the "
            f"export again, or {AGAIN}"
        )
    if others := strangers(folder, {*certificate.files, CERTIFICATE, MARKER}):
        raise ExportError(
            f"verify_export: {folder / others[0]} is not of the export, and nobody has certified it; move it away"
        )
