"""Write a model as a program for other runtimes, certified, in one step or not at all."""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np

from padim_jax.artifact.compaction import Compacted
from padim_jax.export.certificate import CERTIFICATE, READING, REFERENCE, Certificate, digest_files, files_of
from padim_jax.export.certify import Comparison, compare_with_model
from padim_jax.export.compare import BOUNDS, Decision
from padim_jax.export.describe import model_digest
from padim_jax.export.examples import MOST_GOOD, choose_examples, keep_first
from padim_jax.export.fitness import part_fit, refuse_shipped
from padim_jax.export.folder import refuse_nested, replaced
from padim_jax.export.inputs import Images, Input, ProgramInput, check_input
from padim_jax.export.other_poses import advice_by_runtime
from padim_jax.export.program_model import open_model
from padim_jax.export.resampling import plan_resampling
from padim_jax.export.runtimes import DATA, MOST_IMAGES, Format, Precision, open_runtimes
from padim_jax.export.shipped import Target
from padim_jax.export.shipping import Shipment
from padim_jax.export.worst_case import run_worst_case
from padim_jax.export.writing import write_program
from padim_jax.method.records import Padim
from padim_jax.runs.inputs import Place

_CALL = "export_model"


def export_model(
    model: Padim | Compacted | Place,
    out: Place,
    images: Place | Iterable[Place] | Images | Iterable[Images] = (),
    *,
    format: Format = "onnx",
    precision: Precision = "float32",
    batch: int | None = None,
    input: Input | None = None,
    runtimes: Sequence[Target] = (),
    ort_web: Place | None = None,
) -> Certificate:
    """Write a model as a program for other runtimes, from uint8 images to scores and maps.

    The folder holds the program (``model.onnx``, with ``model.onnx.data`` where it takes more than 2 GiB; or
    ``model.xml`` with ``model.bin``, or ``model.stablehlo`` with ``arrays.npz``), the model's answers to some images
    (``reference.npz``), and ``certificate.json``. Every installed runtime is compared with the model on black, white,
    noisy and saturated images, and on those given; where one differs by more than
    :data:`padim_jax.export.compare.BOUND`, relative to the map's scale, nothing is written.

    With ``precision="int8"`` the network is quantised, and the model fitted and calibrated anew on ``images`` as the
    quantised network sees them (:mod:`padim_jax.export.refitting`): that is the model which the export is compared
    with. The runtime of the format, ONNX Runtime or OpenVINO, has to be as close to it as in 32 bits. Others round
    eight bits otherwise, and the certificate says by how much; one that is beyond the bound must not run the program,
    and is in ``unfit``. ``precision="bfloat16"`` does the same with a network that OpenVINO computes in bfloat16.

    Args:
      model: any; or the folder of one. A compact one stays in 16 bits in ONNX; StableHLO has it in 32.
      out: folder to write; an earlier export there is replaced in one step.
      images: good images to compare on, as :func:`padim_jax.fit` takes them: a folder, files, or uint8 arrays, which
        are of the size that the program takes. For "int8" and "bfloat16" they are kept in memory, and
        are best those that the model was fitted on.
      format: "onnx", for ONNX Runtime, OpenVINO and many others; "openvino", OpenVINO's own; or "stablehlo", for JAX
        and XLA on CPU, CUDA and TPU.
      precision: of the network: "float32"; with "onnx" and "openvino" also "int8"; with "openvino" also "bfloat16".
      batch: how many images the program takes at a time; None for any number, or for 1 with "stablehlo".
      input: ("photo", height, width) for a program that takes upright photos of that size, and resizes and crops them
        as padim does, to the last bit; None for one that takes images of the crop's size. Maps are of the crop's size
        in both.
      runtimes: folders to write that run the program without Python, of "browser", "javascript", "cpp" and "csharp".
        The first three of ``images`` and two others are then in ``examples``, with their scores.
      ort_web: for "browser", the package onnxruntime-web of npm: the file that ``npm pack`` writes, or its folder.

    Raises:
      ExportError: a model that the format can't hold; photos that are not of the size that was named; a runtime
        that differs by more than the bound, and is the format's own or is of 32 bits; one of ``runtimes`` that runs
        the program where it must not be run.
      NotOurs: ``out`` holds something else, even beside an earlier export; or it lies in the model's folder.
      ModuleNotFoundError: a package is missing, which the extra ``export`` brings.
      TypeError, ValueError, OSError: images, or a model, that can't be read; a folder that can't be written.
    """
    if format not in get_args(Format):
        raise ValueError(f"{_CALL}: format={format!r}, wanted one of {', '.join(get_args(Format))}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= MOST_IMAGES):
        raise ValueError(f"{_CALL}: batch={batch!r}, wanted a number of images from 1 to {MOST_IMAGES}, or None")
    if isinstance(model, str | os.PathLike):
        refuse_nested(Path(out), Path(model), _CALL)
    if precision not in BOUNDS:
        raise ValueError(f"{_CALL}: precision={precision!r}, wanted one of {', '.join(BOUNDS)}")
    held = open_model(model)
    taken = ProgramInput(held.model.config, check_input(_CALL, input))
    if taken.photo is not None:
        plan_resampling(taken.photo, taken.config)  # which refuses what can't be
    bound, shipment = BOUNDS[precision], Shipment(tuple(runtimes), None if ort_web is None else Path(ort_web))
    shipment.check(taken.config, format, batch, taken.photo)
    if precision != "float32":
        from padim_jax.export.precision import in_precision  # which needs the extra

        held, images = in_precision(held, precision, format, taken, images)
    fitted = held.model
    first = list[np.ndarray]()  # of the images, where examples are wanted
    size = 1 if batch is None and format == "stablehlo" else batch
    with replaced(Path(out), _CALL) as folder:
        write_program(folder, held, format, precision, size, taken.photo)
        decision = Decision.of(fitted)
        comparisons = [
            Comparison(runtime, size, decision, taken.config.crop, taken.photo is not None)
            for runtime in open_runtimes(folder, format, precision)
        ]
        batches = keep_first(taken.read(_CALL, images), first, MOST_GOOD)
        reference, good = compare_with_model(comparisons, fitted, taken, batches, held.usual)
        advice = {} if fitted.alignment is None else advice_by_runtime(_CALL, comparisons, images)
        reports = [comparison.report for comparison in comparisons]
        fit, unfit = part_fit(_CALL, reports, format, precision, bound, advice)
        refuse_shipped(_CALL, runtimes, unfit)
        reference.write(folder / REFERENCE)
        digest, examples = model_digest(fitted), choose_examples(first, good, reference)
        shipment.write(folder, fitted, digest, Path(out).absolute().name, examples, bound)
        files = files_of(format, runtimes, len(examples), has_data=(folder / DATA).exists())
        certificate = Certificate(
            padim_jax=version("padim-jax"),
            model=digest,
            exported=format,
            precision=precision,
            batch=size,
            photo=taken.photo,
            reading={name: getattr(fitted.config, name) for name in READING},
            files=digest_files(folder, files),
            bound=bound,
            runtimes=fit,
            unfit=unfit,
            good=good,
            hostile=len(reference.images),
            factor_error=held.factor_error,
            notes=held.notes,
            worst_case=run_worst_case(held, format, len(fit) > 1),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        (folder / CERTIFICATE).write_text(certificate.text(), encoding="utf-8")
    return certificate
