"""Edge images and their correlation with those of a reference at every shift, as nodes of a graph.

As :mod:`padim_jax.method.correlation`, but for Fourier transforms: edge images are small, so each is two products with
matrices of cosines and sines, which every runtime has, and only shifts that are allowed are computed. Signs lie in
constants: of a difference, a quotient or a product with -1 OpenVINO makes other operations, which it does not keep in
32 bits where a network is in fewer.
"""

from typing import Any

import numpy as np

from padim_jax.export.graph import Graph
from padim_jax.method.correlation import FAINT, padded_shape, window_of


def write_edges(graph: Graph, planes: str, size: tuple[int, int], factor: int) -> tuple[str, tuple[int, int]]:
    """Normalised edge images (n, 1, w, h), columns before rows, and (h, w), of images (n, 3, height, width)."""
    height, width = (-(-length // factor) for length in size)
    if (missing := (height * factor - size[0], width * factor - size[1])) != (0, 0):
        planes = graph.add("Pad", planes, graph.integers([0, 0, 0, 0, 0, 0, *missing]), mode="edge")
    if factor > 1:
        planes = graph.add("AveragePool", planes, kernel_shape=[factor, factor], strides=[factor, factor])
    strongest = graph.add("ReduceMax", planes, axes=[1, 2, 3], keepdims=1)
    planes = graph.add("Transpose", planes, perm=[0, 1, 3, 2])
    # no pad, which OpenVINO would not keep in 32 bits before a convolution
    for axis, length in ((2, width), (3, height)):
        planes = graph.add("Gather", planes, graph.integers([0, *range(length), length - 1]), axis=axis)
    across = np.outer([1, 2, 1], [-1, 0, 1])
    kernel = np.tile(np.stack([across, across.T])[:, None], (3, 1, 1, 1))  # down and across, of each colour
    slopes = graph.add("Conv", planes, graph.constant(kernel, "slopes"), kernel_shape=[3, 3], group=3)
    gradient = graph.add("Sqrt", graph.add("ReduceSumSquare", slopes, axes=[1], keepdims=1))
    is_seen = graph.add("Greater", gradient, graph.add("Mul", strongest, graph.constant(FAINT)))
    magnitude = graph.add("Sqrt", graph.add("Where", is_seen, gradient, graph.constant(0.0)))
    weights = window_of((height, width))
    window = graph.constant(weights.T[None, None], "window")
    total = graph.add("ReduceSum", graph.add("Mul", magnitude, window), graph.integers([2, 3]), keepdims=1)
    minus_mean = graph.add("Mul", total, graph.constant(-1 / weights.sum(dtype=np.float64)))
    edges = graph.add("Mul", graph.add("Add", magnitude, minus_mean), window)
    squares = graph.add("ReduceSumSquare", edges, axes=[2, 3], keepdims=1)
    is_flat = graph.add("Equal", squares, graph.constant(0.0))
    known = graph.add("Where", is_flat, graph.constant(1.0), squares)
    return graph.add("Mul", edges, graph.add("Pow", known, graph.constant(-0.5))), (height, width)


class Correlation:
    """Correlation of edge images of one size with references, whose spectra become constants of the graph."""

    def __init__(self, graph: Graph, spectra: np.ndarray, size: tuple[int, int], max_shift: float) -> None:
        """Store conjugated spectra, complex64 (a, k, l), of edge images of (h, w)."""
        self._graph, self._size, self._padded = graph, size, padded_shape(size, max_shift)
        planes: Any = np.swapaxes(np.asarray(spectra), 1, 2)  # (a, l, k)
        self._real, self._imaginary = (graph.constant(part, "spectra") for part in (planes.real, planes.imag))
        reach = [int(max_shift * side) for side in size]
        self.shifts = np.arange(-reach[0], reach[0] + 1), np.arange(-reach[1], reach[1] + 1)

    def write(self, edges: str, chosen: str | None = None) -> str:
        """Correlations (n, a, columns, rows) of edge images (n, 1, w, h), at the shifts that are allowed.

        Args:
          edges: of n images.
          chosen: indices (n, a) of references; None for all.
        """
        graph, (rows, columns), (down, across) = self._graph, self._padded, self.shifts
        half = np.arange(columns // 2 + 1)
        real, imaginary, minus_imaginary = self._spectrum(edges, half)
        references = (self._real, self._imaginary)
        if chosen is not None:
            references = tuple(graph.add("Gather", part, chosen, axis=0) for part in references)
        both, neither = (
            graph.add("Add", *(graph.add("Mul", *pair) for pair in zip(references, parts, strict=True)))
            for parts in ((real, minus_imaginary), (imaginary, real))
        )
        angles = 2 * np.pi * np.outer(np.arange(rows), down) / rows
        cosines, sines = np.cos(angles), np.sin(angles)
        of_real = graph.constant(np.concatenate([cosines, sines], axis=1), "cosines")
        of_imaginary = graph.constant(np.concatenate([-sines, cosines], axis=1), "sines")
        lines = graph.add("Add", graph.add("MatMul", both, of_real), graph.add("MatMul", neither, of_imaginary))
        weights = np.where((half == 0) | (2 * half == columns), 1, 2) / (rows * columns)
        angles = 2 * np.pi * np.outer(across, half) / columns
        parts = np.stack([weights * np.cos(angles), -weights * np.sin(angles)], axis=-1).reshape(len(across), -1)
        stacked = graph.reshape(lines, [0, 0, 2 * len(half), len(down)])
        return graph.add("MatMul", graph.constant(parts, "cosines"), stacked)

    def _spectrum(self, edges: str, half: np.ndarray) -> list[str]:
        """Real and imaginary part (n, 1, l, k) of the spectra of edge images, and the latter negated."""
        graph, (height, width), (rows, columns) = self._graph, self._size, self._padded
        angles = 2 * np.pi * np.outer(np.arange(height), np.arange(rows)) / rows
        lines = [
            graph.add("MatMul", edges, graph.constant(part, "waves")) for part in (np.cos(angles), -np.sin(angles))
        ]
        angles = 2 * np.pi * np.outer(half, np.arange(width)) / columns
        cosines, sines = np.cos(angles), np.sin(angles)
        both = graph.add("Concat", *lines, axis=2)  # (n, 1, 2 w, k)
        return [
            graph.add("MatMul", graph.constant(np.concatenate(parts, axis=1), "waves"), both)
            for parts in ((cosines, sines), (-sines, cosines), (sines, -cosines))
        ]
