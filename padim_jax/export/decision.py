"""From distances to maps, scores, p-values, verdicts and masks, as nodes of a graph."""

import numpy as np

from padim_jax.export.graph import Graph
from padim_jax.export.warping import Move
from padim_jax.method.aligned import LEAST_SHARE, is_supported
from padim_jax.method.anomaly_map import resampling, top_count
from padim_jax.method.calibration import NO_MATCH
from padim_jax.method.records import Padim
from padim_jax.method.standard import MapStandard

BOOL = 9  # ONNX's number of the type


def write_decision(graph: Graph, model: Padim, distances: str, move: Move | None = None) -> list[str]:
    """Names of the outputs that the model has, in the order of :func:`padim_jax.export.describe.output_names`.

    As :func:`padim_jax.method.programs.scores_of`: two small products make a map of the grid, upsampled and blurred.
    Maps of images that were moved are moved back, once they are scored.
    """
    match = None
    if move is None:
        maps = _write_maps(graph, model, distances)
        scores = _write_scores(graph, model, maps)
    else:
        scores, maps, match = _write_aligned(graph, model, distances, move)
    outputs = [scores, maps]
    calibration = model.calibration
    matches = [] if match is None else [match]
    if calibration is None:
        return [*outputs, *matches]
    good = np.asarray(calibration.scores)
    column = graph.reshape(scores, [-1, 1])
    at_least = graph.add("GreaterOrEqual", graph.constant(good[None], "good_scores"), column)
    count = graph.add("ReduceSum", graph.add("Cast", at_least, to=1), graph.integers([1]), keepdims=0)
    rank = graph.add("Add", count, graph.constant(1.0))
    p = graph.add("Div", rank, graph.constant(float(len(good) + 1)), name="p_value")
    # a score that is not a number counts as above
    below = graph.add("LessOrEqual", scores, graph.constant(np.asarray(calibration.threshold)))
    if match is not None and calibration.least_match is not None:
        is_alike = graph.add("GreaterOrEqual", match, graph.constant(np.asarray(calibration.least_match)))
        below = graph.add("And", below, is_alike)
    anomalous = graph.add("Not", below, name="anomalous")
    mask = graph.add("Greater", maps, graph.constant(np.asarray(calibration.pixel_threshold)), name="mask")
    return [*outputs, p, anomalous, mask, *matches]


def _write_maps(graph: Graph, model: Padim, distances: str) -> str:
    cells, roi = _write_cells(graph, model, distances), None if model.roi is None else np.asarray(model.roi)
    name = "anomaly_map"
    has_more = model.standard is not None or roi is not None
    maps = _upsample(graph, model, cells, None if has_more else name)
    if model.standard is not None:
        maps = _standardise(graph, model.standard, maps, name if roi is None else None)
    if roi is not None:
        inside = graph.constant(roi[None], "region", bool)
        maps = graph.add("Where", inside, maps, _outside(graph, model, maps, inside), name=name)
    return maps


def _write_aligned(graph: Graph, model: Padim, distances: str, move: Move) -> tuple[str, str, str]:
    """Scores, maps and matches of images that were moved (:class:`padim_jax.method.aligned.View`)."""
    cells, grid = _write_cells(graph, model, distances), model.embedding.grid
    assert model.coverage is not None
    covered = np.asarray(is_supported(model.coverage[:, None], model.count[None])).reshape(1, *grid)
    judged = graph.add("And", move.inside(grid), graph.constant(covered, "covered", bool))
    zero, one = graph.constant(0.0), graph.constant(1.0)
    share = _upsample(graph, model, graph.add("Cast", judged, to=1))
    inside = graph.add("Greater", share, graph.constant(LEAST_SHARE))
    total = _upsample(graph, model, graph.add("Where", judged, cells, zero))
    maps = graph.add("Where", inside, graph.add("Div", total, graph.add("Where", inside, share, one)), zero)
    if model.roi is not None:
        inside = graph.add("And", inside, graph.constant(np.asarray(model.roi)[None], "region", bool))
    if model.standard is not None:
        maps = _standardise(graph, model.standard, maps)
    outside = _outside(graph, model, maps, inside)
    maps = graph.add("Where", inside, maps, outside)
    scores = _write_scores(graph, model, maps)
    # of an image that is judged nowhere nothing is known, which must not pass for good
    seen = graph.add("ReduceMax", graph.add("Cast", inside, to=1), axes=[1, 2], keepdims=1)
    known = graph.add("Where", graph.add("Greater", seen, zero), move.poses.quality, graph.constant(NO_MATCH))
    match = graph.add("Squeeze", known, graph.integers([1, 2]), name="match")
    moved, is_reached = move.unwarp(maps)
    return scores, graph.add("Where", is_reached, moved, outside, name="anomaly_map"), match


def _write_cells(graph: Graph, model: Padim, distances: str) -> str:
    """Distances (n, h, w) on the grid, 0 where no pixel of the region of interest is."""
    grid = model.embedding.grid
    cells = graph.swap(distances, [1, 0], [-1, *grid])
    if model.roi is None:
        return cells
    seen = np.zeros(grid, bool)
    rows, columns = (np.arange(size) * n // size for size, n in zip(model.config.crop, grid, strict=True))
    np.logical_or.at(seen, (rows[:, None], columns[None]), np.asarray(model.roi))
    return graph.add("Where", graph.constant(seen[None], "cells_seen", bool), cells, graph.constant(0.0))


def _upsample(graph: Graph, model: Padim, cells: str, name: str | None = None) -> str:
    config = model.config
    rows, columns = (
        resampling(n, size, config.sigma, config.interpolation)
        for n, size in zip(model.embedding.grid, config.crop, strict=True)
    )
    half = graph.add("MatMul", cells, graph.constant(columns.T, "columns"))
    return graph.add("MatMul", graph.constant(rows[None], "rows"), half, name=name)


def _standardise(graph: Graph, standard: MapStandard, maps: str, name: str | None = None) -> str:
    centred = graph.add("Sub", maps, graph.constant(np.asarray(standard.mean)[None], "good_mean"))
    spread = graph.constant(np.asarray(standard.spread)[None], "good_spread")
    levels, scales = standard.levels, standard.scales
    if levels is None or scales is None:
        return graph.add("Div", centred, spread, name=name)
    # the higher of z and of the distance on its scale
    shifted = graph.add("Sub", maps, graph.constant(np.asarray(levels[0])))
    grown = graph.add("Mul", shifted, graph.constant(np.asarray(scales[1] / scales[0])))
    scaled = graph.add("Add", grown, graph.constant(np.asarray(levels[1])))
    return graph.add("Max", graph.add("Div", centred, spread), scaled, name=name)


def _outside(graph: Graph, model: Padim, maps: str, inside: str) -> str:
    """What maps are where they are not judged: 0, or where they are standardised, no higher than anywhere inside."""
    if model.standard is None:
        return graph.constant(0.0)
    judged = graph.add("Where", inside, maps, graph.constant(np.float32(np.inf)))
    lowest = graph.add("ReduceMin", judged, axes=[1, 2], keepdims=1)
    return graph.add("Min", lowest, graph.constant(0.0))


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
