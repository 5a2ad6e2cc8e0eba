"""Check an export anew, on this machine and its runtimes, with or without the model that it was made from."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from padim_jax.artifact import load, load_worst_case
from padim_jax.artifact.arrays import first_line
from padim_jax.export import openvino_model
from padim_jax.export.certificate import CERTIFICATE, READING, REFERENCE, Certificate, Reference, RuntimeReport
from padim_jax.export.certify import (
    Comparison,
    compare_good,
    compare_hostile,
    compare_with_reference,
    recorded,
)
from padim_jax.export.compare import Decision, Outputs
from padim_jax.export.describe import ExportError, model_digest
from padim_jax.export.examples import read_examples
from padim_jax.export.fitness import may_be_unfit, refuse_shipped
from padim_jax.export.inputs import Images
from padim_jax.export.reading import read_certificate
from padim_jax.export.runtimes import DATA, FILES, Runtime, open_runtimes
from padim_jax.export.shipped import EXAMPLES, claimed_targets
from padim_jax.export.worst_case import WorstCaseReport
from padim_jax.gaussians.worst_case import WorstCase
from padim_jax.method.records import Padim
from padim_jax.runs.inputs import Place

_CALL = "verify_export"
_SLACK = 1.01  # of a scale, for maps that another runtime rounds


@dataclass(frozen=True)
class Verification:
    """What a check of an export found.

    Attributes:
      certificate: of the export.
      runtimes: one report for each runtime that is installed here and fit, over the stored images and those given.
      unfit: one for each that the program must not be run in: those of the certificate, which are not run, and those
        that were not there when it was made and are found to be beyond the bound here.
      known: how many of the given images the certificate knows by their pixels.
      unknown: how many it doesn't: only whether their verdicts follow from their scores is checked.
    """

    certificate: Certificate
    runtimes: tuple[RuntimeReport, ...]
    unfit: tuple[RuntimeReport, ...]
    known: int
    unknown: int


def verify_export(
    folder: Place,
    images: Place | Iterable[Place] | Images | Iterable[Images] = (),
    *,
    model: Padim | Place | None = None,
) -> Verification:
    """Check that an export is as it was certified, and that the runtimes of this machine give what the model gave.

    Digests of all files are checked first. Then every installed runtime runs the images that are stored with the
    export, and is compared with the maps, scores and verdicts that are stored too; and the images given: those that the
    export was certified on are known by their pixels and compared with their scores.

    With a model, nothing that is stored of the program is believed: the model itself is run on the black, white, noisy
    and saturated images of every export and on all that are given, thresholds and p-values are those of its
    calibration, and what is stored must be its own. That shows what the program does with these images, and not with
    all others. Folders that run the program without Python are known by their digests alone.

    A runtime that the certificate names as unfit is not run. In eight bits, another that was not there when the export
    was made may turn out to be unfit here, which the result says too.

    Args:
      folder: what :func:`padim_jax.export.export_model` wrote.
      images: images to check on, as there.
      model: the model it should be of, or its folder.

    Raises:
      ExportError: a file that is missing, changed or foreign; a certificate that was edited; a runtime that differs by
        more than the bound, or decides otherwise where no rounding explains it; an export of another model. A
        certificate is not signed: one that was made anew together with its files is found out only by ``model``.
      ModuleNotFoundError: a package is missing, which the extra ``export`` brings.
    """
    place = Path(folder)
    certificate = read_certificate(place)
    reference = Reference.read(place / REFERENCE, certificate)
    _check_judged(place, certificate, reference)
    fitted = load(model) if isinstance(model, str | os.PathLike) else model
    if fitted is not None:
        _check_model(place, certificate, reference, fitted)
        worst = load_worst_case(model) if isinstance(model, str | os.PathLike) else None
        _check_worst_case(place, certificate, fitted, worst)
    decision = reference.decision if fitted is None else Decision.of(fitted)
    taken = certificate.taken
    comparisons = [
        Comparison(runtime, certificate.batch, decision, taken.config.crop, taken.photo is not None)
        for runtime in _open(place, certificate)
    ]
    for comparison in comparisons:
        compare_with_reference(comparison, reference)
    if fitted is not None:
        compare_hostile(comparisons, fitted, taken)
    _compare_examples(place, certificate, reference, comparisons, fitted)
    known = unknown = 0
    for batch in taken.read(_CALL, images):
        if fitted is not None:
            known += len(compare_good(comparisons, fitted, taken, [batch]))
            continue
        is_known, wanted, scale = recorded(certificate.good, batch)
        known, unknown = known + int(is_known.sum()), unknown + int((~is_known).sum())
        for comparison in comparisons:
            found = {name: value[is_known] for name, value in comparison.run(batch).items()}
            _check_scales(place, reference, found, scale)
            comparison.hold(wanted, found, scale)
    reports = [comparison.report for comparison in comparisons]
    found_unfit = [report for report in reports if _is_found_unfit(certificate, report)]
    fit = tuple(report for report in reports if report not in found_unfit)
    for report in fit:
        _check(place, certificate, report)
    refuse_shipped(_CALL, claimed_targets(certificate.files)[0], found_unfit)
    return Verification(certificate, fit, (*certificate.unfit, *found_unfit), known, unknown)


def _compare_examples(
    folder: Path,
    certificate: Certificate,
    reference: Reference,
    comparisons: Sequence[Comparison],
    model: Padim | None,
) -> None:
    """Compare on the examples, if there are any, with what is stored about them and with what the model says."""
    images, wanted, scale = read_examples(folder, certificate)
    if not len(images):
        return
    if ("p_value" in wanted) != (comparisons[0].decision is not None):
        raise ExportError(f"{_CALL}: of {folder / EXAMPLES} and {REFERENCE} one has verdicts and the other has none")
    for comparison in comparisons:
        found = comparison.run(images)
        _check_scales(folder, reference, found, scale)
        comparison.hold(wanted, found, scale)
    if model is not None:
        compare_good(comparisons, model, certificate.taken, [images])


def _check_judged(folder: Path, certificate: Certificate, reference: Reference) -> None:
    is_judged = reference.decision is not None
    if any((image.p_value is not None) != is_judged for image in certificate.good):
        raise ExportError(
            f"{_CALL}: of {folder / CERTIFICATE} and {REFERENCE} one has verdicts and the other has none; export the "
            "model again"
        )


def _check_model(folder: Path, certificate: Certificate, reference: Reference, model: Padim) -> None:
    """Raise ``ExportError`` where digest, settings or calibration that are stored are not those of the model."""
    if certificate.precision != "float32":
        raise ExportError(
            f"{_CALL}: {folder} is in {certificate.precision}, and holds a model of its own, fitted on what the "
            "network gives; leave the model out"
        )
    if (digest := model_digest(model)) != certificate.model:
        raise ExportError(
            f"{_CALL}: {folder} is of another model than the one given ({certificate.model[:12]} against "
            f"{digest[:12]}); export that one"
        )
    decision = Decision.of(model)
    is_same = reference.decision is None if decision is None else decision.is_that_of(reference.decision)
    if not is_same:
        raise ExportError(
            f"{_CALL}: {folder / REFERENCE} has another calibration than the model given; export that model again"
        )
    if other := [name for name in READING if getattr(certificate.settings, name) != getattr(model.config, name)]:
        raise ExportError(
            f"{_CALL}: {folder / CERTIFICATE} reads images by another {other[0]} than the model given; export that "
            "model again"
        )


def _check_worst_case(
    folder: Path, certificate: Certificate, model: Padim, known: tuple[float, WorstCase] | None
) -> None:
    """Raise ``ExportError`` where the worst case is none of the model's, or not the ``known`` one of its folder."""
    if (claimed := certificate.worst_case) is None:
        return
    if claimed.position >= (p := len(model.gaussian.mean)):
        raise ExportError(
            f"{_CALL}: {folder / CERTIFICATE} can't be right: its worst case names position {claimed.position} of a "
            f"model of {p}; export the model again"
        )
    if known is None:
        return
    bound, case = known
    if claimed != WorstCaseReport(bound, case.position, case.distance, case.error, claimed.difference):
        raise ExportError(
            f"{_CALL}: {folder / CERTIFICATE} has another worst case than the model given; export that model again"
        )


def _open(folder: Path, certificate: Certificate) -> list[Runtime]:
    try:
        _check_own_digest(folder, certificate)
        unfit = {report.name for report in certificate.unfit}
        opened = open_runtimes(folder, certificate.exported, certificate.precision)
        return [runtime for runtime in opened if runtime.name not in unfit]
    except (ModuleNotFoundError, ExportError):
        raise
    except Exception as error:  # every runtime has errors of its own
        raise ExportError(
            f"{_CALL}: {folder} holds no program that runs ({first_line(error)}); export the model again"
        ) from error


def _check_scales(folder: Path, reference: Reference, found: Outputs, scale: Float[np.ndarray, " k"]) -> None:
    """Raise ``ExportError`` where images that are known have larger scales than their maps and other images allow.

    A scale is at most the largest distance plus what every image has, as of standardised maps, and the images that are
    stored have that too.
    """
    largest = np.abs(found["anomaly_map"]).max(axis=(1, 2), initial=0)
    if (scale > _SLACK * (largest + reference.scale.min())).any():
        raise ExportError(
            f"{_CALL}: {folder / CERTIFICATE} can't be right: it holds a score against a scale of {scale.max():.2g}, "
            f"where maps are below {largest.max():.2g}; export the model again"
        )


def _check_own_digest(folder: Path, certificate: Certificate) -> None:
    """Whether the graph itself says that it is of the certificate's model."""
    path = folder / FILES[certificate.exported][0]
    if certificate.exported == "onnx":
        from padim_jax.export import onnx_model  # which needs the extra

        found = onnx_model.recorded_digest(path, has_data=DATA in certificate.files)
    elif certificate.exported == "openvino":
        found = openvino_model.recorded_digest(path)
    else:
        return
    if found != certificate.model:
        raise ExportError(
            f"{_CALL}: {path} is of model {str(found)[:12]}, and its certificate of {certificate.model[:12]}; export "
            "the model again"
        )


def _is_found_unfit(certificate: Certificate, report: RuntimeReport) -> bool:
    """Whether a runtime that the certificate says nothing of rounds the program beyond the bound."""
    is_known = report.name in {known.name for known in certificate.runtimes}
    is_beyond = report.differences.relative > certificate.bound
    return is_beyond and not is_known and may_be_unfit(report, certificate.exported, certificate.precision)


def _check(folder: Path, certificate: Certificate, report: RuntimeReport) -> None:
    if not np.isfinite(report.differences.relative) or report.differences.relative > certificate.bound:
        raise ExportError(
            f"{_CALL}: {folder}: {report.name} {report.version} is off by {report.differences.relative:.2g} of the "
            f"maps' scale on this machine, beyond the bound of {certificate.bound:g}; use another runtime or version, "
            "or export the model again"
        )
