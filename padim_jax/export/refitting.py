"""A model fitted anew on what a runtime computes of its network in another precision.

Eight bits move the activations by some ten percent, and bfloat16 by one. Gaussians of the network in 32 bits know
nothing of it, and may call most good images anomalous (benchmarks/eight_bits.py). So the model is fitted anew, on good
images as the runtime's network sees them, and calibrated anew, so that the rate of false alarms holds. Everything after
the network stays in 32 bits, except that factors beside a network in eight bits are rounded afterwards
(:mod:`padim_jax.export.integer_factors`).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from padim_jax.export.describe import ExportError
from padim_jax.export.eight_bits import Batch, quantise
from padim_jax.export.runtime_network import network_program, open_backbone
from padim_jax.export.runtimes import Format, Precision
from padim_jax.method.embedding import draw_embedding
from padim_jax.method.fitting import fit
from padim_jax.method.records import Padim
from padim_jax.method.scoring import calibrate, calibration_scores
from padim_jax.method.variants import with_roi
from padim_jax.method.warping import warp
from padim_jax.runs.copies import pixels_digest

FEWEST = 3  # images, of which one can be left out


def refit(model: Padim, good: Sequence[Batch], precision: Precision, format: Format) -> Padim:
    """A model with the network as a runtime computes it, fitted and calibrated anew on good images.

    Copies among them count once. Calibrated is it by leaving each image out, at the rates that the model has, also
    where that was calibrated on other images; one that was not calibrated stays so. One of aligned images keeps its
    reference, which its region of interest lies as.

    Args:
      model: any that an ONNX graph can hold.
      good: the images, best those that the model was fitted on.
      precision: "int8", or "bfloat16".
      format: of the program, whose own runtime computes the network: "onnx" or "openvino".

    Raises:
      ExportError: fewer than 3 different images; a threshold that was set by hand; channels that were not drawn; a
        precision that this processor does not have.
      ValueError, FloatingPointError: as of a fit.
    """
    call = f"export_model: precision={precision!r}"
    good = _different(good)
    if (count := sum(map(len, good))) < FEWEST:
        raise ExportError(
            f"{call} fits the model anew on what its network gives then, which takes {FEWEST} different good images or "
            f"more, and {count} were given; name those that the model was fitted on"
        )
    if draw_embedding(model.backbone, model.config) != model.embedding:
        raise ExportError(
            f"{call} fits the model anew, and its channels are not those that its settings draw, as of a model that "
            "padim import made; export it with precision='float32'"
        )
    if model.calibration is not None and model.calibration.threshold_source == "set":
        raise ExportError(
            f"{call} calibrates the model anew, and its threshold was set by hand, in units that change; calibrate it "
            "by a rate first (padim calibrate --false-alarm-rate)"
        )
    program = network_program(model.backbone, model.embedding, model.config.crop)
    program = quantise(program, _moved(model, good)) if precision == "int8" else program
    network = open_backbone(model.backbone, program, format, precision)
    fitted = fit(network, good, model.config, alignment=model.alignment)
    if model.roi is not None:
        fitted = with_roi(fitted, np.asarray(model.roi))
    if model.calibration is None:
        return fitted
    before = model.calibration
    return calibrate(fitted, good, false_alarm_rate=before.false_alarm_rate, pixel_rate=before.pixel_rate)


def usual_score(fitted: Padim, good: Sequence[Batch]) -> float:
    """What a good image scores that the model does not know: the median of those it was fitted on, each left out.

    Without it, nothing says by how much runtimes may differ on images that the model was fitted on, which lie almost at
    the mean where there are few of them.

    Args:
      fitted: as :func:`refit` gives it.
      good: the images it was fitted on.
    """
    if fitted.calibration is not None:
        return float(np.median(np.asarray(fitted.calibration.scores)))
    return float(np.median(calibration_scores(fitted, _different(good))))


def _moved(model: Padim, good: Sequence[Batch]) -> Sequence[Batch]:
    """Images as the network sees them."""
    if model.alignment is None:
        return good
    return [np.asarray(warp(batch, model.alignment.poses(jnp.asarray(batch)))[0]) for batch in good]


def _different(good: Sequence[Batch]) -> list[Batch]:
    """The images without copies, in their order and batches."""
    seen = set[str]()
    result = list[Batch]()
    for batch in good:
        digests = map(pixels_digest, batch)
        fresh = [place for place, digest in enumerate(digests) if digest not in seen and not seen.add(digest)]
        if fresh:
            result.append(batch[fresh])
    return result
