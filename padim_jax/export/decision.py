"""From distances to maps, scores, p-values, verdicts and masks, as nodes of a graph."""

import numpy as np

from padim_jax.export.graph import Graph
from padim_jax.method.anomaly_map import resampling, top_count
from padim_jax.method.records import Padim

BOOL = 9  # ONNX's number of the type


def write_decision(graph: Graph, model: Padim, distances: str) -> list[str]:
    """Names of the outputs that the model has, in the order of :func:`padim_jax.export.describe.output_names`.

    As :func:`padim_jax.method.programs.scores_of`: two small products make a map of the grid, upsampled and blurred.
    """
    maps = _write_maps(graph, model, distances)
    scores = _write_scores(graph, model, maps)
    outputs = [scores, maps]
    calibration = model.calibration
    if calibration is None:
        return outputs
    good = np.asarray(calibration.scores)
    column = graph.reshape(scores, [-1, 1])
    at_least = graph.add("GreaterOrEqual", graph.constant(good[None], "good_scores"), column)
    count = graph.add("ReduceSum", graph.add("Cast", at_least, to=1), graph.integers([1]), keepdims=0)
    rank = graph.add("Add", count, graph.constant(1.0))
    p = graph.add("Div", rank, graph.constant(float(len(good) + 1)), name="p_value")
    # a score that is not a number counts as above
    below = graph.add("LessOrEqual", scores, graph.constant(np.asarray(calibration.threshold)))
    anomalous = graph.add("Not", below, name="anomalous")
    mask = graph.add("Greater", maps, graph.constant(np.asarray(calibration.pixel_threshold)), name="mask")
    return [*outputs, p, anomalous, mask]


def _write_maps(graph: Graph, model: Padim, distances: str) -> str:
    config, grid = model.config, model.embedding.grid
    cells = graph.swap(distances, [1, 0], [-1, *grid])
    roi = None if model.roi is None else np.asarray(model.roi)
    if roi is not None:
        seen = np.zeros(grid, bool)
        rows, columns = (np.arange(size) * n // size for size, n in zip(config.crop, grid, strict=True))
        np.logical_or.at(seen, (rows[:, None], columns[None]), roi)
        cells = graph.add("Where", graph.constant(seen[None], "cells_seen", bool), cells, graph.constant(0.0))
    rows, columns = (
        resampling(n, size, config.sigma, config.interpolation) for n, size in zip(grid, config.crop, strict=True)
    )
    half = graph.add("MatMul", cells, graph.constant(columns.T, "columns"))
    name = "anomaly_map"
    has_more = model.standard is not None or roi is not None
    maps = graph.add("MatMul", graph.constant(rows[None], "rows"), half, name=None if has_more else name)
    if model.standard is not None:
        centred = graph.add("Sub", maps, graph.constant(np.asarray(model.standard.mean)[None], "good_mean"))
        spread = graph.constant(np.asarray(model.standard.spread)[None], "good_spread")
        last = None if roi is not None else name
        levels, scales = model.standard.levels, model.standard.scales
        if levels is None or scales is None:
            maps = graph.add("Div", centred, spread, name=last)
        else:  # the higher of z and of the distance on its scale
            gain = np.asarray(scales[1] / scales[0])
            shifted = graph.add("Sub", maps, graph.constant(np.asarray(levels[0])))
            grown = graph.add("Mul", shifted, graph.constant(gain))
            scaled = graph.add("Add", grown, graph.constant(np.asarray(levels[1])))
            maps = graph.add("Max", graph.add("Div", centred, spread), scaled, name=last)
    if roi is not None:
        inside = graph.constant(roi[None], "region", bool)
        outside = graph.constant(0.0)
        if model.standard is not None:  # no higher than anywhere inside
            judged = graph.add("Where", inside, maps, graph.constant(np.float32(np.inf)))
            lowest = graph.add("ReduceMin", judged, axes=[1, 2], keepdims=1)
            outside = graph.add("Min", lowest, graph.constant(0.0))
        maps = graph.add("Where", inside, maps, outside, name=name)
    return maps


def _write_scores(graph: Graph, model: Padim, maps: str) -> str:
    name, share = "image_score", model.config.top_share
    if share is None:
        return graph.add("ReduceMax", maps, axes=[1, 2], keepdims=0, name=name)
    roi = None if model.roi is None else np.asarray(model.roi)
    pixels = int(np.prod(model.config.crop)) if roi is None else int(roi.sum())
    if roi is not None:
        maps = graph.add("Where", graph.constant(roi[None], "region", bool), maps, graph.constant(np.float32(-np.inf)))
    values = graph.reshape(maps, [-1, int(np.prod(model.config.crop))])
    count = int(top_count(share, pixels))
    highest = graph.add_first("TopK", values, graph.integers([count]), axis=1)
    return graph.add("ReduceMean", highest, axes=[1], keepdims=0, name=name)
