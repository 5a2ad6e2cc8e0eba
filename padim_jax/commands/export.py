"""``padim export`` and ``padim verify``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from padim_jax.baselines.manifest import refuse
from padim_jax.commands.inputs import find_inputs
from padim_jax.commands.score import refuse_nested
from padim_jax.commands.terminal import say, tell
from padim_jax.export import export_model, verify_export
from padim_jax.export.certificate import Certificate, RuntimeReport
from padim_jax.export.examples import MOST_GOOD
from padim_jax.export.fitness import words_of_unfit
from padim_jax.export.inputs import Input
from padim_jax.export.runtimes import Format, Precision
from padim_jax.export.shipped import EXAMPLES, Target, claimed_targets


def export_command(
    model: Path,
    images: tuple[Path, ...],
    out: Path,
    exported: Format,
    precision: Precision,
    batch: int | None,
    taken: Input | None,
    runtimes: tuple[Target, ...],
    ort_web: Path | None,
) -> None:
    """Do what ``padim export`` says it does."""
    refuse(model, "export")
    refuse_nested(out, model)
    paths = find_inputs(images, out).paths if images else ()
    if not paths:
        say("note: no good images were named; it is compared on black, white, noisy and saturated ones alone")
    options: dict[str, Any] = {"format": exported, "precision": precision, "batch": batch, "input": taken}
    certificate = export_model(model, out, paths, **options, runtimes=runtimes, ort_web=ort_web)
    _tell_reports(certificate.runtimes)
    _say_unfit(certificate, certificate.unfit)
    if (worst := certificate.worst_case) is not None:
        tell(
            f"{'compacting':24} no distance is off by more than {worst.bound:.2g} of itself; the worst case that this "
            f"bound names is off by {worst.difference:.2g}"
        )
    if precision != "float32":
        say(
            f"the network is in {precision}, and the model was fitted anew on the {len(paths)} images named, and "
            "calibrated on them if it was before; measure it on defective parts before you trust it"
        )
    if (error := certificate.factor_error) is not None:
        say(f"factors are in integers too, which moves their products by {error:.2g} of a standard deviation")
    for note in certificate.notes:
        say(f"note: {note}")
    size = sum(size for _, size in certificate.files.values())
    tell(
        f"{out}: {exported}, {size / 1e6:.2f} MB; compared on {len(certificate.good)} images named and "
        f"{certificate.hostile} others, within {certificate.bound:g}"
    )
    if runtimes and (shown := min(MOST_GOOD, len(certificate.good))):
        say(f"note: {out / EXAMPLES} holds pixels of {shown} of the images named; the others are not in the export")
    for runtime in runtimes:
        tell(f"{out / runtime}: README.md there says how to run it")


def verify_command(export: Path, images: tuple[Path, ...], model: Path | None) -> None:
    """Do what ``padim verify`` says it does."""
    paths = find_inputs(images).paths if images else ()
    found = verify_export(export, paths, model=model)
    _tell_reports(found.runtimes)
    certificate = found.certificate
    _say_unfit(certificate, found.unfit)
    told = f"; {found.known} of {len(paths)} images named are compared" if paths else ""
    tell(
        f"{export}: as it was certified on {certificate.made}, of model {certificate.model[:12]}, and right on this "
        f"machine within {certificate.bound:g}{told}"
    )
    if targets := claimed_targets(certificate.files)[0]:
        say(f"note: {', '.join(targets)} hold the files that were certified; what they do is not run here")
    if found.unknown:
        say(
            f"note: the certificate knows nothing of {found.unknown} images; --model compares them too. The same file "
            "can be decoded to other pixels on another machine"
        )


def _say_unfit(certificate: Certificate, unfit: Sequence[RuntimeReport]) -> None:
    for report in unfit:
        words = words_of_unfit(report, certificate.exported, certificate.bound)
        say(f"WARNING: {words}. For {report.name}, export with --format openvino")


def _tell_reports(reports: Sequence[RuntimeReport]) -> None:
    for report in reports:
        found = report.differences
        tell(
            f"{f'{report.name} {report.version}':24} {found.images} images: maps off by {found.map_relative:.1e} of "
            f"their scale, scores by {found.score_relative:.1e}, p-values by {found.p_value:.1e}; {found.flipped} "
            "verdicts differ"
        )
