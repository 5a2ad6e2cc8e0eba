"""Poses of images relative to a reference, as nodes of a graph, for all images at once.

As :meth:`padim_jax.method.aligned.Alignment.poses`, step by step: the same candidates, peaks and parabolas.
"""

from dataclasses import dataclass

import numpy as np

from padim_jax.export.correlation import Correlation, write_edges
from padim_jax.export.graph import Graph
from padim_jax.export.peaks import first_largest, neighbours, pick, vertex
from padim_jax.method.aligned import EXPLAINED, SHIFTS, Alignment
from padim_jax.method.correlation import REFUSED, shrinking
from padim_jax.method.registration import CHANCE, FLAT, REACH, REFINED, SAME_QUALITY, Angles
from padim_jax.method.warping import ANGLES

_FAR = 1e9  # beyond all qualities and angles


@dataclass(frozen=True)
class PoseNodes:
    """Poses of n images in a graph, as :class:`padim_jax.method.warping.Poses` has them; each (n, 1, 1).

    Attributes:
      down, across: the shift in pixels.
      quality: how well they match.
      angle: degrees; None where images are not turned.
    """

    down: str
    across: str
    quality: str
    angle: str | None = None


def write_poses(graph: Graph, alignment: Alignment, images: str) -> PoseNodes:
    """Poses of ``images``, uint8 (n, height, width, 3) of the reference's size."""
    reference = alignment.reference
    size, angles = (reference.size[0], reference.size[1]), Angles.up_to(reference.max_angle)
    factor = shrinking(size)
    planes = graph.add("Cast", graph.add("Transpose", images, perm=[0, 3, 1, 2]), to=1)  # float32
    edges, small = write_edges(graph, planes, size, factor)
    fine = Correlation(graph, np.asarray(reference.fine), small, reference.max_shift)
    if len(angles.fine) == 1:
        found = _write_peaks(graph, fine, edges, None, (1, 1), factor)
        return PoseNodes(graph.add("Round", found[0]), graph.add("Round", found[1]), found[2])
    near = None
    if len(angles.coarse) > 1:
        edges_seen, half = write_edges(graph, planes, size, 2 * factor)
        coarse = Correlation(graph, np.asarray(reference.coarse), half, reference.max_shift)
        candidates = _write_candidates(graph, angles, coarse.write(edges_seen))
        near = graph.add("Gather", graph.constant(angles.near, "near", np.int64), candidates, axis=0)
    groups = min(len(angles.coarse), 1 + REFINED), angles.near.shape[1]
    found = _write_peaks(graph, fine, edges, near, groups, factor)
    sizes = _degrees(graph, np.abs(angles.fine), near)
    place, offset = _write_best_angle(graph, found[2], sizes, groups)
    turned = [pick(graph, place, value, [1, 2]) for value in found]
    degrees = pick(graph, place, _degrees(graph, angles.fine, near), [1, 2])
    step = graph.constant(float(angles.fine[1] - angles.fine[0]))
    angle = _bounded(graph, graph.add("Add", degrees, graph.add("Mul", offset, step)), angles, reference.max_angle)
    # the first candidate is the coarse angle nearest to 0, which 0 itself is near
    nearest = np.abs(angles.fine[angles.near[np.abs(angles.fine[angles.coarse]).argmin()]])
    is_unturned = np.zeros((1, *groups), bool)
    is_unturned[0, 0, nearest.argmin()] = True
    shifted = [pick(graph, graph.constant(is_unturned, "unturned", bool), value, [1, 2]) for value in found]
    gain = graph.add("Sub", turned[2], shifted[2])
    left = graph.add("Sub", graph.constant(1.0), shifted[2])
    is_turned = graph.add("Greater", gain, graph.add("Mul", left, graph.constant(EXPLAINED)))
    turned[:2] = [_rounded(graph, shift, SHIFTS) for shift in turned[:2]]
    shifted[:2] = [graph.add("Round", shift) for shift in shifted[:2]]
    down, across, quality = (graph.add("Where", is_turned, *pair) for pair in zip(turned, shifted, strict=True))
    return PoseNodes(
        down, across, quality, graph.add("Where", is_turned, _rounded(graph, angle, ANGLES), graph.constant(0.0))
    )


def _rounded(graph: Graph, value: str, steps: int) -> str:
    whole = graph.add("Round", graph.add("Mul", value, graph.constant(float(steps))))
    return graph.add("Mul", whole, graph.constant(1 / steps))


def _degrees(graph: Graph, angles: np.ndarray, near: str | None) -> str:
    """Angles (n, candidates, reach) at indices; (1, 1, reach), all of them, where there is one candidate."""
    values = graph.constant(angles if near is not None else angles[None, None], "degrees")
    return values if near is None else graph.add("Gather", values, near, axis=0)


def _bounded(graph: Graph, angle: str, angles: Angles, limit: float) -> str:
    """The parabola may lead half a step beyond the bounds, or past the half-turn."""
    if not angles.full_circle:
        return graph.add("Clip", angle, graph.constant(-limit), graph.constant(limit))
    is_past = graph.add("Less", angle, graph.constant(-180.0))
    return graph.add("Where", is_past, graph.add("Add", angle, graph.constant(360.0)), angle)


def _write_candidates(graph: Graph, angles: Angles, surfaces: str) -> str:
    """Indices (n, candidates) of coarse angles to refine."""
    sizes = np.abs(angles.fine[angles.coarse])
    count = len(sizes)
    highest = graph.add("ReduceMax", surfaces, axes=[2, 3], keepdims=0)
    quality = graph.add("Sub", highest, graph.constant((SAME_QUALITY * sizes / 180)[None], "preference"))
    if angles.full_circle:
        ends = graph.slice(quality, count - 1, count, 1), quality, graph.slice(quality, 0, 1, 1)
        padded = graph.add("Concat", *ends, axis=1)
    else:
        padded = graph.add("Pad", quality, graph.integers([0, 1, 0, 1]), graph.constant(-_FAR), mode="constant")
    sides = (graph.slice(padded, start, start + count, 1) for start in (0, 2))
    is_peak = graph.add("And", *(graph.add("GreaterOrEqual", quality, side) for side in sides))
    ranks = graph.add("Where", is_peak, quality, graph.add("Sub", quality, graph.constant(4.0)))  # they differ by 2
    is_nearest = graph.constant((np.arange(count) == sizes.argmin())[None], "nearest", bool)
    ranks = graph.add("Where", is_nearest, graph.constant(4.0), ranks)
    return graph.add_second("TopK", ranks, graph.integers([min(count, 1 + REFINED)]), axis=1)


def _write_best_angle(graph: Graph, quality: str, sizes: str, groups: tuple[int, int]) -> tuple[str, str]:
    """Which of (n, candidates, reach) is the best angle, one of each n, and the peak's distance from it, in steps."""
    candidates, reach = groups
    last, order = reach - 1, np.arange(reach)
    most, least = (graph.add(name, quality, axes=[2], keepdims=1) for name in ("ReduceMax", "ReduceMin"))
    # over fewer than ±3° a peak varies less, as a parabola does
    flat = graph.constant(FLAT * (last / (2 * REACH)) ** 2)
    is_flat = graph.add("LessOrEqual", graph.add("Sub", most, least), flat)
    smallest = graph.add("And", is_flat, first_largest(graph, graph.add("Neg", sizes), -1, order))
    highest = graph.add("And", graph.add("Not", is_flat), first_largest(graph, quality, -1, order))
    place = graph.add("Or", smallest, highest)
    at = pick(graph, place, graph.constant(order[None, None], "order"), [2])
    at_end = graph.add("Or", *(graph.add("Equal", at, graph.constant(float(end))) for end in (0, last)))
    top, own = (pick(graph, place, values, [2]) for values in (quality, sizes))
    best = graph.add("ReduceMax", top, axes=[1], keepdims=1)
    # a quality that still rises at the end of the reach belongs to another candidate's peak
    is_inner = graph.add("Or", is_flat, graph.add("Not", at_end))
    is_peak = graph.add("Or", is_inner, graph.add("Equal", top, best))
    chance = graph.add("Mul", graph.add("Sub", graph.constant(1.0), best), graph.constant(CHANCE))
    lowest = graph.add("Sub", graph.add("Sub", best, graph.constant(SAME_QUALITY)), chance)
    is_equal = graph.add("And", is_peak, graph.add("GreaterOrEqual", top, lowest))
    preferred = graph.add("Neg", graph.add("Where", is_equal, own, graph.constant(_FAR)))
    candidate = first_largest(graph, preferred, -2, np.arange(candidates))
    before, after = neighbours(graph, place, quality, reach, 0.0)
    is_fixed = graph.add("Or", is_flat, at_end)
    offset = graph.add("Where", is_fixed, graph.constant(0.0), vertex(graph, before, top, after))
    return graph.add("And", place, candidate), pick(graph, candidate, offset, [1])


def _write_peaks(
    graph: Graph, correlation: Correlation, edges: str, near: str | None, groups: tuple[int, int], factor: int
) -> list[str]:
    """Shifts down and across in pixels, and qualities, each (n, candidates, reach)."""
    chosen = None if near is None else graph.reshape(near, [0, -1])
    surfaces = correlation.write(edges, chosen)
    down, across = correlation.shifts
    # no shift comes first where all are alike, and smaller ones before larger ones
    by_row = graph.add("ReduceMax", surfaces, axes=[2], keepdims=1)
    row = first_largest(graph, by_row, -1, _ranks(down))
    of_row = pick(graph, row, surfaces, [3], keepdims=False)  # (n, a, columns)
    column = first_largest(graph, of_row, -1, _ranks(across))
    top = pick(graph, column, of_row, [2])
    of_column = pick(graph, graph.add("Unsqueeze", column, graph.integers([3])), surfaces, [2], keepdims=False)
    row = graph.add("Squeeze", row, graph.integers([2]))
    height, found = top, []
    for place, line, shifts in ((row, of_column, down), (column, of_row, across)):
        before, after = neighbours(graph, place, line, len(shifts), REFUSED)
        # beyond the largest shift there are no values to draw a parabola through
        is_known = graph.add("Greater", graph.add("Min", before, after), graph.constant(REFUSED))
        offset = graph.add("Where", is_known, vertex(graph, before, top, after), graph.constant(0.0))
        rise = graph.add("Mul", graph.add("Sub", after, before), offset)
        height = graph.add("Add", height, graph.add("Mul", rise, graph.constant(0.25)))
        whole = pick(graph, place, graph.constant(shifts[None, None], "shifts"), [2])
        found.append(graph.add("Mul", graph.add("Add", whole, offset), graph.constant(float(factor))))
    found.append(graph.add("Clip", height, graph.constant(-1.0), graph.constant(1.0)))
    return [graph.reshape(value, [0, *groups]) for value in found]


def _ranks(shifts: np.ndarray) -> np.ndarray:
    """Their places in a cyclic correlation: 0, 1, 2, … and then -m, …, -1."""
    return np.where(shifts >= 0, shifts, shifts + 2 * len(shifts))
