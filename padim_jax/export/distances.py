"""Mahalanobis distances as nodes of a graph: inverse factors in panels, low rank, 16 bits, components."""

from typing import Any

import numpy as np

from padim_jax.artifact.layouts import form_of
from padim_jax.export.graph import Graph
from padim_jax.gaussians.packing import rows_of
from padim_jax.gaussians.quantised import Quantised
from padim_jax.gaussians.triangle import PANELS, TriangularMatrix
from padim_jax.method.positions import arrangement_of
from padim_jax.method.records import Padim

KERNEL = 32  # columns that a runtime multiplies at once


def write_distances(graph: Graph, model: Padim, x: str, quantised: Quantised | None) -> str:
    """Distances (p, n), not squared, of embeddings (p, n, d).

    The products are those of :meth:`padim_jax.gaussians.factors.WhitenedGaussian.distances` and of
    :meth:`padim_jax.gaussians.low_rank.LowRankGaussian.distances`. Numbers of 16 bits stay so in the file and become
    float32 where a runtime loads it.
    """
    form, _ = form_of(model.gaussian)
    gaussian: Any = model.gaussian
    n_cells, dimension = model.embedding.n_positions, model.embedding.dimension
    several = gaussian.components is not None
    if several:  # every cell is held against each of the components: (1, p n, d) against (k, 1, d)
        x = graph.reshape(x, [1, -1, dimension])
    # a sum, because OpenVINO makes one of a difference, and forgets then to keep it in 32 bits
    centred = graph.add("Add", x, graph.constant(-np.asarray(gaussian.mean)[:, None], "mean"))
    if form == "low-rank":
        squares = _low_rank(graph, gaussian, centred, quantised)
    else:
        squares = _whitened(graph, gaussian, centred, quantised)
    if several:
        offsets = _offsets(gaussian, arrangement_of(model.config).n_gaussians(n_cells))
        shifted = graph.add("Add", squares, graph.constant(offsets[:, None], "offsets"))
        likeliest = graph.add("ReduceMin", shifted, axes=[0], keepdims=0)
        # the root first: OpenVINO would move it there, and forget to keep the reshape in 32 bits
        return graph.reshape(graph.add("Sqrt", graph.add("Relu", likeliest)), [n_cells, -1])
    return graph.add("Sqrt", squares)


def _whitened(graph: Graph, gaussian: Any, centred: str, quantised: Quantised | None) -> str:
    """``‖Wᵀ (x - μ)‖²``, the sum over the panels of W."""
    sides = panel_spans(gaussian.mean.shape[1])
    if quantised is None:
        panels = [graph.constant(_cut(gaussian.whitening, *side), "panel") for side in sides]
    else:
        panels = _panels_of_16_bits(graph, quantised, sides)
    norms = []
    for panel, (_, stop) in zip(panels, sides, strict=True):
        rows = centred
        if stop < sides[-1][1]:
            ends = graph.integers([0]), graph.integers([stop]), graph.integers([2])
            rows = graph.add("Slice", centred, *ends)
        norms.append(_sum_of_squares(graph, graph.add("MatMul", rows, panel)))
    return norms[0] if len(norms) == 1 else graph.add("Sum", *norms)


def panel_spans(d: int) -> list[tuple[int, int]]:
    """Columns of the panels that a file stores: start, stop.

    As :func:`padim_jax.gaussians.triangle.spans`, but in whole widths of a runtime's kernels: at d = 100, three panels
    take ONNX Runtime three quarters of the time of four of 25 columns, and 6 % more room.
    """
    width = -(-d // (PANELS * KERNEL)) * KERNEL
    stops = [stop for stop in range(width, d, width) if d - stop >= KERNEL // 2]
    return list(zip([0, *stops], [*stops, d], strict=True))


def _cut(upper: TriangularMatrix, start: int, stop: int) -> np.ndarray:
    """Rows to ``stop`` of columns ``start`` to ``stop`` of upper triangular matrices, (p, stop, stop - start)."""
    panel = np.zeros((len(upper), stop, stop - start), np.float32)
    for own, (first, last) in zip(upper.panels, upper.spans, strict=True):
        low, high = max(start, first), min(stop, last)
        if low < high:
            rows = min(stop, last)
            panel[:, :rows, low - start : high - start] = np.asarray(own[:, :rows, low - first : high - first])
    return panel


def _panels_of_16_bits(graph: Graph, quantised: Quantised, sides: list[tuple[int, int]]) -> list[str]:
    """Panels of the packed upper triangle: each number is looked up, and what lies below the diagonal becomes 0."""
    d = sides[-1][1]
    place = np.zeros((d, d), np.int64)
    for row, (columns, packed) in enumerate(rows_of(d, lower=False)):
        place[row, columns] = np.arange(packed.start, packed.stop)
    above = np.triu(np.ones((d, d), np.float32))
    values = graph.constant(quantised.values, "triangle", np.int16)
    scale = graph.constant(np.asarray(quantised.scale)[..., None], "steps")
    panels = []
    for start, stop in sides:
        found = graph.add("Gather", values, graph.constant(place[:stop, start:stop], "places", np.int64), axis=1)
        steps = graph.add("Cast", found, to=1)
        used = scale
        if stop < d:
            used = graph.add("Slice", scale, graph.integers([0]), graph.integers([stop]), graph.integers([1]))
        panel = graph.add("Mul", steps, used)
        panels.append(graph.add("Mul", panel, graph.constant(above[None, :stop, start:stop], "upper")))
    return panels


def _low_rank(graph: Graph, gaussian: Any, centred: str, quantised: Quantised | None) -> str:
    """``‖δ - Bᵀy‖² / noise + Σ y² / (spread + noise)`` with ``y = B δ``."""
    if quantised is None:
        basis = graph.constant(np.asarray(gaussian.basis), "basis")
    else:
        steps = graph.add("Cast", graph.constant(quantised.values, "basis", np.int16), to=1)
        basis = graph.add("Mul", steps, graph.constant(np.asarray(quantised.scale)[..., None], "steps"))
    noise, spread = np.asarray(gaussian.noise), np.asarray(gaussian.spread)
    p, r, d = gaussian.basis.shape
    columns = graph.swap(centred, [0, 2, 1], [p, d, -1])
    y = graph.swap(graph.add("MatMul", basis, columns), [0, 2, 1], [p, -1, r])
    residual = graph.add("Sub", centred, graph.add("MatMul", y, basis))
    outside = graph.add("Mul", _sum_of_squares(graph, residual), graph.constant(1 / noise[:, None], "noise"))
    scaled = graph.add("Mul", y, graph.constant(1 / np.sqrt(spread + noise[:, None])[:, None], "scales"))
    return graph.add("Add", outside, _sum_of_squares(graph, scaled))


def _sum_of_squares(graph: Graph, value: str) -> str:
    return graph.add("ReduceSumSquare", value, axes=[2], keepdims=0)


def _offsets(gaussian: Any, n_components: int) -> np.ndarray:
    """``log|Σ_k| - 2 log π_k`` less the smallest, float32 (k,); infinite for a component that holds nothing."""
    shares = np.asarray(gaussian.components.shares, np.float64)[:n_components]
    with np.errstate(divide="ignore"):
        offsets = gaussian.log_determinants() - 2 * np.log(np.maximum(shares / shares.sum(), 0))
    return (offsets - offsets.min()).astype(np.float32)
