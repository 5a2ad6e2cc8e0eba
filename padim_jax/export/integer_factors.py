"""A model's factors in integers, where the network gives integers and nothing comes between the two."""

from dataclasses import replace
from typing import Any

import numpy as np

from padim_jax.export.runtime_network import RuntimeBackbone
from padim_jax.gaussians.integer_products import IntegerWhitening, round_to_integers
from padim_jax.method.embedding import tap_channels
from padim_jax.method.records import Padim
from padim_jax.method.variants import with_solver

# Of :attr:`IntegerWhitening.mean_error`. At 0.08 defects of pills were found as before; at 0.28, on cookies, of which
# there are fewer images than channels, PRO fell by 0.02 (benchmarks/eight_bits.py).
LARGEST_ERROR = 0.1


class FactorsKept(ValueError):
    """Factors that can't be integers; the message says why, as the end of a sentence about them."""


def in_integers(model: Padim, largest_error: float = LARGEST_ERROR) -> tuple[Padim, IntegerWhitening]:
    """The model as it scores by factors in integers, and these.

    Its calibration stays: steps are scaled so that distances of good images keep their mean square at each position,
    and so do not drift to one side of the threshold.

    Args:
      model: fitted on a network in eight bits.
      largest_error: of :attr:`IntegerWhitening.mean_error`.

    Raises:
      FactorsKept: channels that are mixed or averaged after the network, which makes fractions of integers; several
        Gaussians at each position, which are told apart by determinants; or rounding that would change more than
        ``largest_error``, as it does where there are few images for the number of channels.
    """
    backbone, embedding = model.backbone, model.embedding
    assert isinstance(backbone, RuntimeBackbone)
    units = backbone.program.units
    if model.projection is not None:
        raise FactorsKept("its projection mixes the network's channels, which gives no integers")
    if units is None or embedding.neighbourhood > 1:
        raise FactorsKept("neighbouring cells are averaged, which gives no integers")
    if getattr(model.gaussian, "components", None) is not None:
        raise FactorsKept("several Gaussians at each position are told apart by more than their products")
    taps, _ = tap_channels(backbone, embedding)
    counts = [backbone.program.channels[name] for name in taps]
    sizes, zeros = (
        np.repeat(np.array([getattr(units[name], part) for name in taps], np.float32), counts)
        for part in ("size", "zero")
    )
    exact = with_solver(model, "inverse-factor")
    gaussian: Any = exact.gaussian
    integers = round_to_integers(gaussian.whitening, sizes, zeros)
    if not (error := integers.mean_error) <= largest_error:
        raise FactorsKept(
            f"rounding them would move their products by {error:.2g} of a standard deviation, and {largest_error:g} is "
            "the most; name more good images, at least as many as there are channels"
        )
    return replace(exact, gaussian=replace(gaussian, whitening=integers.whitening())), integers
