"""A model's factors in integers, where its network gives integers."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from padim_jax.export.integer_distances import LARGEST_COUNT
from padim_jax.export.program_model import ProgramModel
from padim_jax.export.runtime_network import RuntimeBackbone
from padim_jax.gaussians.integer_products import round_to_integers
from padim_jax.method.embedding import tap_channels
from padim_jax.method.records import Padim
from padim_jax.method.variants import with_solver

# Of the record's mean_error. At 0.08 defects of pills were found as before; at 0.28, on cookies, of which there are
# fewer images than channels, PRO fell by 0.02 (benchmarks/eight_bits.py).
LARGEST_ERROR = 0.1
_BYTES = 255  # steps that an activation has


class FactorsKept(ValueError):
    """Factors that can't be integers; the message says why, as the end of a sentence about them."""


def in_integers(model: Padim, largest_error: float = LARGEST_ERROR) -> ProgramModel:
    """The model as it scores by factors in integers: of seven bits where that is enough, else of 14, and why.

    Its calibration stays: steps are scaled so that distances of good images keep their mean square at each position,
    and so do not drift to one side of the threshold.

    Args:
      model: fitted on a network in eight bits.
      largest_error: of :class:`padim_jax.gaussians.integer_products.IntegerWhitening`, its ``mean_error``.

    Raises:
      FactorsKept: several Gaussians at each position, which are told apart by determinants; or rounding that would
        change more than ``largest_error``.
    """
    if getattr(model.gaussian, "components", None) is not None:
        raise FactorsKept("several Gaussians at each position are told apart by more than their products")
    exact = with_solver(model, "inverse-factor")
    gaussian: Any = exact.gaussian
    units, zeros = _units(model)
    integers, notes = round_to_integers(gaussian.whitening, units, zeros), tuple[str, ...]()
    if not (error := integers.mean_error) <= largest_error:
        moved = f"rounding would move their products by {error:.2g} of a standard deviation"
        notes = (f"factors take 14 bits: with seven, {moved}, and {largest_error:g} is the most",)
        integers = round_to_integers(gaussian.whitening, units, zeros, n_parts=2)
    if not (error := integers.mean_error) <= largest_error:
        raise FactorsKept(
            f"rounding them would move their products by {error:.2g} of a standard deviation, and {largest_error:g} is "
            "the most"
        )
    rounded = replace(exact, gaussian=replace(gaussian, whitening=integers.whitening()))
    return ProgramModel(rounded, integers, notes=notes)


def _units(model: Padim) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"] | None]:
    """What one step of each channel of embeddings is worth, and the integers that stand for 0 where they are such.

    Channels that are mixed, or averaged over neighbours, are no integers, but no image takes them out of what those of
    the network allow.
    """
    backbone, embedding = model.backbone, model.embedding
    assert isinstance(backbone, RuntimeBackbone)
    network = backbone.program.units
    assert network is not None
    taps, rows = tap_channels(backbone, embedding)
    counts = [backbone.program.channels[name] for name in taps]
    sizes, zeros = (
        np.repeat(np.array([getattr(network[name], part) for name in taps], np.float32), counts)
        for part in ("size", "zero")
    )
    if model.projection is None and embedding.neighbourhood == 1:
        return sizes, zeros
    widths = _BYTES * sizes
    if model.projection is not None:
        used = np.concatenate([np.arange(rows[name].start, rows[name].stop) for name in taps])
        widths = widths @ np.abs(np.asarray(model.projection)[used])
    return widths / LARGEST_COUNT, None
