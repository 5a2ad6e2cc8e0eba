"""The resize and crop of photos as nodes of a graph, equal to Pillow's to the last bit."""

import numpy as np

from padim_jax.export.graph import Graph
from padim_jax.export.resampling import HIGH_BITS, LOW_BITS, Pass, Resampling

_BLOCK = 32  # pixels made by one product: each takes but the pixels around it, which is most of the work saved


def write_resampling(graph: Graph, plan: Resampling, photos: str) -> str:
    """Images, uint8 (n, crop height, crop width, 3), of photos, uint8 (n, height, width, 3).

    Every sum is exact in float32 (:mod:`padim_jax.export.resampling`), and so is every number between.
    """
    planes = graph.add("Transpose", photos, perm=[0, 3, 1, 2])
    for one in plan.passes:
        planes = _copy(graph, one, planes) if one.is_copy else _resize(graph, one, planes)
    above, below, before, after = plan.margins
    values = graph.add("Cast", planes, to=1)  # float32
    if any(plan.margins):
        pads = graph.integers([0, 0, above, before, 0, 0, below, after])
        values = graph.add("Pad", values, pads, graph.constant(0.0), mode="constant")
    return graph.add("Cast", graph.add("Transpose", values, perm=[0, 2, 3, 1]), to=2)  # uint8


def _copy(graph: Graph, one: Pass, planes: str) -> str:
    return graph.slice(planes, int(one.starts[0]), int(one.starts[-1]) + 1, one.axis + 1)


def _resize(graph: Graph, one: Pass, planes: str) -> str:
    parts: tuple[list[str], list[str]] = ([], [])
    taps, axis = one.weights.shape[1], one.axis + 1
    for start in range(0, len(one.starts), _BLOCK):
        block = slice(start, start + _BLOCK)
        first, last = int(one.starts[block].min()), min(one.length, int(one.starts[block].max()) + taps)
        taken = graph.add("Cast", graph.slice(planes, first, last, axis), to=1)  # float32
        for part, weights in zip(parts, one.parts(), strict=True):
            matrix = np.zeros((len(one.starts[block]), last - first), np.float32)
            for row, (begin, values) in enumerate(zip(one.starts[block], weights[block], strict=True)):
                count = min(taps, one.length - begin)
                matrix[row, begin - first : begin - first + count] = values[:count]
            part.append(_product(graph, one, matrix, taken))
    high, low = (found[0] if len(found) == 1 else graph.add("Concat", *found, axis=axis) for found in parts)
    carried = graph.add("Floor", graph.add("Mul", low, graph.constant(2.0**-LOW_BITS)))
    total = graph.add("Add", graph.add("Add", high, carried), graph.constant(2.0 ** (HIGH_BITS - 1)))
    rounded = graph.add("Floor", graph.add("Mul", total, graph.constant(2.0**-HIGH_BITS)))
    return graph.add("Clip", rounded, graph.constant(0.0), graph.constant(255.0))


def _product(graph: Graph, one: Pass, matrix: np.ndarray, taken: str) -> str:
    if one.axis == 1:
        return graph.add("MatMul", graph.constant(matrix, "row_weights"), taken)
    return graph.add("MatMul", taken, graph.constant(matrix.T, "column_weights"))
