"""Mahalanobis distances of embeddings that are integers, by products of integers, as nodes of a graph."""

import numpy as np
from jaxtyping import Float

from padim_jax.export.distances import panel_spans
from padim_jax.export.graph import Graph
from padim_jax.gaussians.integer_products import IntegerWhitening


def write_integer_distances(graph: Graph, mean: Float[np.ndarray, "p d"], whitening: IntegerWhitening, q: str) -> str:
    """Distances (p, n), not squared, of embeddings ``units · (q - zeros)``.

    Numbers of eight bits with a scale of 1 are what runtimes know as integers: they multiply them as such, and sum up
    in 32 bits, without rounding.

    Args:
      graph: to add to.
      mean: of the Gaussians.
      whitening: their inverse factors in integers.
      q: uint8 (p, n, d).
    """
    one = graph.constant(1.0)
    x = graph.add("DequantizeLinear", q, one, graph.constant(0, "zero", np.uint8))
    centres = whitening.zeros + np.asarray(mean, np.float64) / whitening.units
    sums = []
    for start, stop in panel_spans(mean.shape[1]):
        values = whitening.values[:, :stop, start:stop]
        rows = x
        if stop < mean.shape[1]:
            rows = graph.add("Slice", x, graph.integers([0]), graph.integers([stop]), graph.integers([2]))
        stored = graph.constant(values, "panel", np.int8)
        panel = graph.add("DequantizeLinear", stored, one, graph.constant(0, "zero", np.int8))
        centre = np.einsum("pk,pkj->pj", centres[:, :stop], values, optimize=True)
        deviation = graph.add("Sub", graph.add("MatMul", rows, panel), graph.constant(centre[:, None], "centre"))
        z = graph.add("Mul", deviation, graph.constant(whitening.step[:, None, start:stop], "steps"))
        sums.append(graph.add("ReduceSumSquare", z, axes=[2], keepdims=0))
    return graph.add("Sqrt", sums[0] if len(sums) == 1 else graph.add("Sum", *sums))
