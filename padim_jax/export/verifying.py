"""Check an export anew, on this machine and its runtimes, with or without the model that it was made from."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from padim_jax.artifact import load
from padim_jax.export.certificate import REFERENCE, Certificate, Reference, RuntimeReport
from padim_jax.export.certify import Comparison, Images, compare_good, compare_with_reference, recorded
from padim_jax.export.compare import differences
from padim_jax.export.describe import ExportError, model_digest
from padim_jax.export.exporting import batches_of
from padim_jax.export.reading import read_certificate
from padim_jax.export.runtimes import FILES, open_runtimes
from padim_jax.method.records import Padim
from padim_jax.runs.inputs import Place

_CALL = "verify_export"


@dataclass(frozen=True)
class Verification:
    """What a check of an export found.

    Attributes:
      certificate: of the export.
      runtimes: one report for each runtime that is installed here, over the stored images and those given.
      known: how many of the given images the certificate knows by their pixels.
      unknown: how many it doesn't: only whether their verdicts follow from their scores is checked.
    """

    certificate: Certificate
    runtimes: tuple[RuntimeReport, ...]
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
    export, and is compared with the model's maps, scores and verdicts; and the images given: those that the export was
    certified on are known by their pixels and compared with their scores. With a model, all are compared with it.

    Args:
      folder: what :func:`padim_jax.export.export_model` wrote.
      images: images to check on, as there.
      model: the model it should be of, or its folder.

    Raises:
      ExportError: a file that is missing, changed or foreign; a certificate that was edited; a runtime that differs by
        more than the bound; an export of another model. A certificate is not signed: one that was made anew together
        with its files is found out only by ``model``.
      ModuleNotFoundError: a package is missing, which the extra ``export`` brings.
    """
    place = Path(folder)
    certificate = read_certificate(place)
    reference = Reference.read(place / REFERENCE, certificate)
    _check_own_digest(place, certificate)
    fitted = load(model) if isinstance(model, str | os.PathLike) else model
    if fitted is not None and model_digest(fitted) != certificate.model:
        raise ExportError(
            f"{_CALL}: {place} is of another model than the one given ({certificate.model[:12]} against "
            f"{model_digest(fitted)[:12]}); export that one"
        )
    runtimes = open_runtimes(place, certificate.exported)
    comparisons = [Comparison(runtime, certificate.batch, reference.decision) for runtime in runtimes]
    for comparison in comparisons:
        compare_with_reference(comparison, reference)
    known = unknown = 0
    for batch in batches_of(certificate.settings, images, _CALL):
        if fitted is not None:
            known += len(compare_good(comparisons, fitted, [batch]))
            continue
        is_known, wanted, scale = recorded(certificate.good, batch)
        known, unknown = known + int(is_known.sum()), unknown + int((~is_known).sum())
        for comparison in comparisons:
            found = comparison.run(batch)
            found = {name: value[is_known] for name, value in found.items()}
            comparison.differences += differences(wanted, found, scale)
    for comparison in comparisons:
        _check(place, certificate, comparison.report)
    return Verification(certificate, tuple(comparison.report for comparison in comparisons), known, unknown)


def _check_own_digest(folder: Path, certificate: Certificate) -> None:
    """Whether the graph itself says that it is of the certificate's model."""
    if certificate.exported != "onnx":
        return
    from padim_jax.export.onnx_model import recorded_digest  # which needs the extra

    path = folder / FILES["onnx"][0]
    if (found := recorded_digest(path)) != certificate.model:
        raise ExportError(
            f"{_CALL}: {path} is of model {str(found)[:12]}, and its certificate of {certificate.model[:12]}; export "
            "the model again"
        )


def _check(folder: Path, certificate: Certificate, report: RuntimeReport) -> None:
    if not np.isfinite(report.differences.relative) or report.differences.relative > certificate.bound:
        raise ExportError(
            f"{_CALL}: {folder}: {report.name} {report.version} is off by {report.differences.relative:.2g} of the "
            f"maps' scale on this machine, beyond the bound of {certificate.bound:g}; use another runtime or version, "
            "or export the model again"
        )
