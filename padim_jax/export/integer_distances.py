"""Mahalanobis distances of embeddings in integers, by products of integers, as nodes of a graph.

Numbers of eight bits with a scale of 1 are what runtimes know as integers: they multiply them as such, and sum up in 32
bits, without rounding. What takes more than eight bits is written in digits: embeddings as rows of bytes, factors as
columns of seven bits. A runtime reads the factors once for all rows, which is what takes its time.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from padim_jax.export.distances import panel_spans
from padim_jax.export.graph import Graph
from padim_jax.export.integer_rows import Rows
from padim_jax.gaussians.integer_products import PART, IntegerWhitening

BASE = 256  # of the digits of embeddings
DIGITS = 3  # as many bits as float32 has
MIDDLE = BASE // 2  # what stands for 0 in each digit
LARGEST_COUNT = (MIDDLE - 1) * (1 + BASE + BASE**2)  # of units that a deviation from the mean can have
_UINT8 = 2  # ONNX's number of the type


def distances_of_integers(
    graph: Graph, rows: Rows, mean: Float[np.ndarray, "p d"], whitening: IntegerWhitening, q: str
) -> str:
    """Distances (p, n), not squared, of embeddings ``units · (q - zeros)``.

    Args:
      graph: to add to.
      rows: how embeddings lie, and are multiplied.
      mean: of the Gaussians.
      whitening: their inverse factors in integers.
      q: uint8 embeddings, as a network in eight bits gives them.
    """
    assert whitening.zeros is not None
    return _distances(graph, rows, [q], whitening.zeros + np.asarray(mean, np.float64) / whitening.units, whitening)


def distances_of_fractions(
    graph: Graph, rows: Rows, mean: Float[np.ndarray, "p d"], whitening: IntegerWhitening, x: str
) -> str:
    """Distances (p, n), not squared, of embeddings that are no integers.

    Their deviations from the mean, in units, are rounded to integers of 24 bits, as many as float32 has, of three
    digits each: ``x - μ ≈ units · Σ_i 256^(2-i) (q_i - 128)``.

    Args:
      graph: to add to.
      rows: how embeddings lie, and are multiplied.
      mean: of the Gaussians.
      whitening: their inverse factors in integers.
      x: float32 embeddings.
    """
    zero = sum(MIDDLE * BASE**place for place in range(DIGITS))
    deviation = graph.add("Add", x, graph.constant(rows.lay(-np.asarray(mean)), "mean"))
    counted = graph.add("Mul", deviation, graph.constant((1 / whitening.units)[None, None], "per_unit"))
    rest = graph.add("Add", counted, graph.constant(float(zero)))
    digits = list[str]()
    for place in range(DIGITS - 1, 0, -1):
        digits.append(graph.add("Floor", graph.add("Mul", rest, graph.constant(float(BASE) ** -place))))
        rest = graph.add("Sub", rest, graph.add("Mul", digits[-1], graph.constant(float(BASE) ** place)))
    bytes_of_digits = [graph.add("Cast", digit, to=_UINT8) for digit in (*digits, rest)]
    return _distances(graph, rows, bytes_of_digits, np.full(np.shape(mean), MIDDLE, np.float64), whitening)


def _distances(
    graph: Graph, rows: Rows, digits: Sequence[str], centres: Float[np.ndarray, "p d"], whitening: IntegerWhitening
) -> str:
    """Distances of embeddings of one or more digits, the first worth most, of which ``centres`` stand for the mean."""
    whole = digits[0] if len(digits) == 1 else graph.add("Concat", *digits, axis=rows.axis)
    x = graph.add("DequantizeLinear", whole, graph.constant(1.0), graph.constant(0, "zero", np.uint8))
    d, n_parts = whitening.step.shape[1], len(whitening.parts)
    worth = [float(BASE) ** place for place in reversed(range(len(digits)))]
    sums = []
    for start, stop in panel_spans(d):
        panels = [rows.fill(part[:, :stop, start:stop]) for part in whitening.parts]
        step = rows.fill(whitening.step[:, None, start:stop])[:, 0]
        values = np.concatenate(panels, axis=2)
        centre = np.einsum("pk,pkj->pj", centres[:, :stop], values, optimize=True)
        product = rows.multiply(graph, x if stop == d else graph.slice(x, 0, stop, 2), values)
        # of each product by itself, before they are summed up: what is large in them goes away without rounding
        deviation = graph.add("Sub", product, graph.constant(rows.lay(centre), "centre"))
        if len(digits) * n_parts > 1:
            parts = [float(PART) ** place for place in reversed(range(n_parts))]
            deviation = rows.sum_up(graph, deviation, step.shape[1], worth, parts)
        z = graph.add("Mul", deviation, graph.constant(rows.lay(step), "steps"))
        sums.append(graph.add("ReduceSumSquare", z, axes=[2], keepdims=0))
    return rows.by_position(graph, graph.add("Sqrt", sums[0] if len(sums) == 1 else graph.add("Sum", *sums)))
