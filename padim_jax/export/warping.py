"""Images moved into the pose of a reference and maps moved back, as nodes of a graph.

As :mod:`padim_jax.method.warping`, whose numbers are exact in float32: each pixel of a moved image is the same byte.
"""

from dataclasses import dataclass

import numpy as np

from padim_jax.export.graph import Graph
from padim_jax.export.registration import PoseNodes
from padim_jax.method.warping import ANGLES, SAMPLES, rotations


@dataclass(frozen=True)
class Move:
    """A rotation about the centre and a shift in a graph, of n images of one size.

    Attributes:
      graph: they are nodes of.
      size: height and width.
      poses: of the images.
      rotation: cosine and sine, each (n, 1, 1); None where images are not turned.
    """

    graph: Graph
    size: tuple[int, int]
    poses: PoseNodes
    rotation: tuple[str, str] | None

    @classmethod
    def of(cls, graph: Graph, poses: PoseNodes, size: tuple[int, int]) -> "Move":
        """That of images of (height, width) which lie so."""
        if poses.angle is None:
            return cls(graph, size, poses, None)
        table = rotations(size)
        step = graph.add("Round", graph.add("Mul", poses.angle, graph.constant(float(ANGLES))))
        turns = graph.add("Add", step, graph.constant(float(len(table))))
        positive = graph.add("Where", graph.add("Less", step, graph.constant(0.0)), turns, step)
        place = graph.add("Cast", positive, to=7)  # int64
        cosine, sine = (
            graph.add("Gather", graph.constant(values, name), place, axis=0)
            for values, name in zip(table.T, ("cosines", "sines"), strict=True)
        )
        return cls(graph, size, poses, (cosine, sine))

    def warp(self, images: str) -> str:
        """Images, uint8 (n, height, width, 3), in the pose of the reference; at borders the photo's are continued."""
        graph, (height, width) = self.graph, self.size
        points = self._to_image(*np.indices(self.size))
        if self.rotation is not None:
            fine = graph.constant(float(SAMPLES))
            steps = (graph.add("Round", graph.add("Mul", axis, fine)) for axis in points)
            points = [graph.add("Mul", step, graph.constant(1 / SAMPLES)) for step in steps]
        values = self._sample(graph.reshape(images, [0, height * width, 3]), points)
        if self.rotation is not None:
            values = graph.add("Cast", graph.add("Round", values), to=2)  # uint8
        return graph.reshape(values, [0, height, width, 3])

    def inside(self, grid: tuple[int, int]) -> str:
        """Which cells (n, h, w) of the reference's grid have their centres inside the photos."""
        rows, columns = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(grid, self.size, strict=True))
        return self._is_inside(self._to_image(*np.meshgrid(rows, columns, indexing="ij")))

    def unwarp(self, maps: str) -> tuple[str, str]:
        """Maps (n, height, width) in the photos' own pixels, and which of those the reference reaches."""
        graph, (height, width) = self.graph, self.size
        points = self._to_reference()
        moved = self._sample(graph.reshape(maps, [0, height * width, 1]), points)
        return graph.reshape(moved, [0, height, width]), self._is_inside(points)

    def _to_image(self, rows: np.ndarray, columns: np.ndarray) -> list[str]:
        """Where points of the reference lie in the images: ``R (p - c) + c + s``, rows and columns, each (n, h, w)."""
        graph, shifts = self.graph, (self.poses.down, self.poses.across)
        if self.rotation is None:
            points = [graph.constant(axis[None], "points") for axis in (rows, columns)]
        else:
            y, x = (
                self.graph.constant((axis - (side - 1) / 2)[None], "points")
                for axis, side in zip((rows, columns), self.size, strict=True)
            )
            points = self._turn(y, x, *self.rotation)
        return [graph.add("Add", point, shift) for point, shift in zip(points, shifts, strict=True)]

    def _to_reference(self) -> list[str]:
        """Where the images' pixels lie in the reference: ``Rᵀ (q - c - s) + c``."""
        graph, shifts = self.graph, (self.poses.down, self.poses.across)
        centre = (0.0, 0.0) if self.rotation is None else [(side - 1) / 2 for side in self.size]
        pixels = (
            graph.constant((axis - at)[None], "points") for axis, at in zip(np.indices(self.size), centre, strict=True)
        )
        y, x = (graph.add("Sub", axis, shift) for axis, shift in zip(pixels, shifts, strict=True))
        if self.rotation is None:
            return [y, x]
        cosine, sine = self.rotation
        return self._turn(y, x, cosine, graph.add("Neg", sine))

    def _turn(self, y: str, x: str, cosine: str, sine: str) -> list[str]:
        """Turned about the origin, then moved to the centre."""
        graph = self.graph
        down = graph.add("Sub", graph.add("Mul", y, cosine), graph.add("Mul", x, sine))
        across = graph.add("Add", graph.add("Mul", y, sine), graph.add("Mul", x, cosine))
        centre = [graph.constant((side - 1) / 2) for side in self.size]
        return [graph.add("Add", point, at) for point, at in zip((down, across), centre, strict=True)]

    def _is_inside(self, points: list[str]) -> str:
        graph = self.graph
        known = []
        for point, side in zip(points, self.size, strict=True):
            known.append(graph.add("GreaterOrEqual", point, graph.constant(-0.5)))
            known.append(graph.add("LessOrEqual", point, graph.constant(side - 0.5)))
        return graph.add("And", graph.add("And", *known[:2]), graph.add("And", *known[2:]))

    def _sample(self, values: str, points: list[str]) -> str:
        """Values (n, pixels, c) at points (n, h, w), of the nearest pixels outside; float32 between pixels."""
        graph, (height, width) = self.graph, self.size
        ends = [graph.constant(float(side - 1)) for side in self.size]
        rows, columns = (
            graph.reshape(graph.add("Clip", point, graph.constant(0.0), end), [0, height * width, 1])
            for point, end in zip(points, ends, strict=True)
        )

        def at(row: str, column: str) -> str:
            whole = [graph.add("Cast", axis, to=7) for axis in (row, column)]  # int64
            place = graph.add("Add", graph.add("Mul", whole[0], graph.integers(width)), whole[1])
            return graph.add("GatherND", values, place, batch_dims=1)

        if self.rotation is None:
            return at(rows, columns)
        one = graph.constant(1.0)
        above, before = graph.add("Floor", rows), graph.add("Floor", columns)
        below, after = (
            graph.add("Min", graph.add("Add", first, one), end)
            for first, end in zip((above, before), ends, strict=True)
        )
        down, across = graph.add("Sub", rows, above), graph.add("Sub", columns, before)

        def between(first: str, second: str, share: str) -> str:
            rest = graph.add("Mul", first, graph.add("Sub", one, share))
            return graph.add("Add", rest, graph.add("Mul", second, share))

        def along(row: str) -> str:
            first, second = (graph.add("Cast", at(row, column), to=1) for column in (before, after))
            return between(first, second, across)

        return between(along(above), along(below), down)
