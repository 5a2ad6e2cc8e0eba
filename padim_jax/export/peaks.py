"""Largest values, their places and what lies between places, as nodes of a graph.

A place is a plane of truth values with one true in each group, so that what lies there is a sum, and no operator that
takes indices is needed. Of several equal values the first in an order is taken: runtimes differ in which they find.
"""

from collections.abc import Sequence

import numpy as np

from padim_jax.export.graph import Graph

_LAST = 1e9  # beyond all ranks


def first_largest(graph: Graph, values: str, axis: int, ranks: np.ndarray) -> str:
    """Where values are largest along an axis, counted from the end; of equal ones, where the rank is least."""
    largest = graph.add("ReduceMax", values, axes=[axis], keepdims=1)
    along = graph.constant(ranks.reshape(-1, *[1] * (-1 - axis)), "ranks")
    known = graph.add("Where", graph.add("Equal", values, largest), along, graph.constant(_LAST))
    return graph.add("Equal", known, graph.add("ReduceMin", known, axes=[axis], keepdims=1))


def pick(graph: Graph, place: str, values: str, axes: Sequence[int], *, keepdims: bool = True) -> str:
    """The value at a place."""
    there = graph.add("Where", place, values, graph.constant(0.0))
    return graph.add("ReduceSum", there, graph.integers([*axes]), keepdims=int(keepdims))


def neighbours(graph: Graph, place: str, values: str, length: int, outside: float) -> tuple[str, str]:
    """Values before and after a place along the last of three axes; ``outside`` beyond its ends."""
    padded = graph.add("Pad", values, graph.integers([0, 0, 1, 0, 0, 1]), graph.constant(outside), mode="constant")
    before, after = (graph.slice(padded, start, start + length, 2) for start in (0, 2))
    return pick(graph, place, before, [2]), pick(graph, place, after, [2])


def vertex(graph: Graph, before: str, top: str, after: str) -> str:
    """Where the parabola through values at -1, 0 and 1 is largest, as in :mod:`padim_jax.method.registration`."""
    least = graph.constant(1e-6)
    curvature = graph.add("Sub", graph.add("Sub", graph.add("Add", top, top), before), after)
    divisor = graph.add("Max", curvature, least)
    rise = graph.add("Sub", after, before)
    found = graph.add("Div", rise, graph.add("Add", divisor, divisor))
    known = graph.add("Where", graph.add("Greater", curvature, least), found, graph.constant(0.0))
    return graph.add("Clip", known, graph.constant(-0.5), graph.constant(0.5))
