"""A model as a StableHLO program for CPU, CUDA and TPU in one file, with its arrays in a file beside it.

The arrays are arguments of the program and not constants in it: XLA would fold them at every compilation, and take
minutes and several times their memory for a model of hundreds of megabytes.
"""

from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from padim_jax.export.describe import ExportError, output_names
from padim_jax.export.resampling import HIGH_BITS, LOW_BITS, Resampling, plan_resampling
from padim_jax.method import programs
from padim_jax.method.records import Padim
from padim_jax.method.scoring import check_standard
from padim_jax.method.variants import with_solver

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo_model(model: Padim, batch: int, photo: tuple[int, int] | None = None) -> tuple[bytes, list[np.ndarray]]:
    """The program that :func:`jax.export.deserialize` reads, and its arrays in the order in which it takes them.

    The program is called with the list of arrays and with images, uint8 (batch, height, width, 3); it gives a
    dictionary of the outputs (:func:`padim_jax.export.describe.output_names`).

    Args:
      model: what :func:`padim_jax.score` takes.
      batch: the number of images that the program takes.
      photo: their height and width, where they are photos that the program resizes and crops.

    Raises:
      ExportError: a model of standardised maps that is not calibrated; photos that can't be.
    """
    try:
        check_standard("export_model", model)
    except ValueError as error:
        raise ExportError(str(error)) from None
    # a triangular solve calls LAPACK, which is not the same on every platform
    whitened = model if model.gaussian.solver != "triangular-solve" else with_solver(model, "inverse-factor")
    leaves, structure = jax.tree.flatten(whitened)
    calibration = model.calibration
    names = output_names(model)
    plan = None if photo is None else plan_resampling(photo, model.config)

    def run(arrays: Sequence[jax.Array], images: jax.Array) -> dict[str, jax.Array]:
        given = jax.tree.unflatten(structure, arrays)
        images = images if plan is None else resample(plan, images)
        scores, _ = programs.score(given, images)
        if calibration is not None:
            scores = programs.judge(given.calibration, scores)
        found = {name: getattr(scores, name) for name in names if name != "mask"}
        if calibration is not None:
            found["mask"] = scores.anomaly_map > given.calibration.pixel_threshold
        return found

    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    images = jax.ShapeDtypeStruct((batch, *(photo or model.config.crop), 3), np.uint8)
    exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, images)
    return bytes(exported.serialize()), [np.asarray(leaf) for leaf in leaves]


def resample(plan: Resampling, photos: UInt8[Array, "n height width 3"]) -> UInt8[Array, "n rows columns 3"]:
    """Photos resized and cropped as Pillow does it, to the last bit, in integers of 32 bits."""
    bits = LOW_BITS + HIGH_BITS
    values = photos.astype(jnp.int32)
    for one in plan.passes:
        m, taps = one.weights.shape
        places = np.minimum(one.starts[:, None] + np.arange(taps), one.length - 1)
        shape = (1, m, taps, 1, 1) if one.axis == 1 else (1, 1, m, taps, 1)
        taken = jnp.take(values, places, axis=one.axis)
        total = jnp.sum(taken * one.weights.reshape(shape), axis=one.axis + 1, dtype=jnp.int32)
        values = jnp.clip((total + 2 ** (bits - 1)) >> bits, 0, 255)
    above, below, before, after = plan.margins
    return jnp.pad(values, [(0, 0), (above, below), (before, after), (0, 0)]).astype(jnp.uint8)
