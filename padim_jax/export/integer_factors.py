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


def in_integers(model: Padim, largest_error: float = LARGEST_ERROR) -> tuple[Padim, IntegerWhitening] | None:
    """The model as it scores by factors in integers, and these; None where its factors can't be such.

    That is so where channels are mixed or averaged after the network, which makes fractions of integers; where each
    position has several Gaussians, which are told apart by determinants; and where rounding would change more than
    ``largest_error``, as it does where there are few images for the number of channels.

    Args:
      model: fitted on a network in eight bits.
      largest_error: of :attr:`IntegerWhitening.mean_error`.
    """
    backbone, embedding = model.backbone, model.embedding
    assert isinstance(backbone, RuntimeBackbone)
    units = backbone.program.units
    is_mixed = model.projection is not None or embedding.neighbourhood > 1
    if units is None or is_mixed or getattr(model.gaussian, "components", None) is not None:
        return None
    taps, _ = tap_channels(backbone, embedding)
    counts = [backbone.program.channels[name] for name in taps]
    sizes, zeros = (
        np.repeat(np.array([getattr(units[name], part) for name in taps], np.float32), counts)
        for part in ("size", "zero")
    )
    exact = with_solver(model, "inverse-factor")
    gaussian: Any = exact.gaussian
    integers = round_to_integers(gaussian.whitening, sizes, zeros)
    if not integers.mean_error <= largest_error:
        return None
    return replace(exact, gaussian=replace(gaussian, whitening=integers.whitening())), integers
