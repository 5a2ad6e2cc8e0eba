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
      rotation: cosine, sine and the sine negated, each (n, 1, 1); None where images are not turned.
    """

    graph: Graph
    size: tuple[int, int]
    poses: PoseNodes
    rotation: tuple[str, str, str] | None

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
        cosine, sine, minus_sine = (
            graph.add("Gather", graph.constant(values, name), place, axis=0)
            for values, name in zip((*table.T, -table[:, 1]), ("cosines", "sines", "sines"), strict=True)
        )
        return cls(graph, size, poses, (cosine, sine, minus_sine))

    def warp(self, images: str) -> str:
        """Images, uint8 (n, height, width, 3), in the pose of the reference; at borders the photo's are continued."""
        graph = self.graph
        points = self._to_image(*np.indices(self.size))
        if self.rotation is None:
            points = self._within(points)
        else:  # bounded while they are whole, or OpenVINO would not keep them in 32 bits
            steps = [graph.add("Round", graph.add("Mul", axis, graph.constant(float(SAMPLES)))) for axis in points]
            points = [graph.add("Mul", step, graph.constant(1 / SAMPLES)) for step in self._within(steps, SAMPLES)]
        planes = self._sample(graph.add("Transpose", images, perm=[0, 3, 1, 2]), 3, points)
        if self.rotation is not None:
            planes = graph.add("Cast", graph.add("Round", planes), to=2)  # uint8
        return graph.add("Transpose", planes, perm=[0, 2, 3, 1])

    def inside(self, grid: tuple[int, int]) -> str:
        """Which cells (n, h, w) of the reference's grid have their centres inside the photos."""
        rows, columns = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(grid, self.size, strict=True))
        return self._is_inside(self._to_image(*np.meshgrid(rows, columns, indexing="ij")))

    def unwarp(self, maps: str) -> tuple[str, str]:
        """Maps (n, height, width) in the photos' own pixels, and which of those the reference reaches."""
        graph, (height, width) = self.graph, self.size
        points = self._to_reference()
        moved = self._sample(graph.reshape(maps, [0, 1, height, width]), 1, self._within(points))
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
        cosine, sine, minus_sine = self.rotation
        return self._turn(y, x, cosine, minus_sine, sine)

    def _turn(self, y: str, x: str, cosine: str, sine: str, minus_sine: str) -> list[str]:
        """Turned about the origin, then moved to the centre."""
        graph = self.graph
        down = graph.add("Add", graph.add("Mul", y, cosine), graph.add("Mul", x, minus_sine))
        across = graph.add("Add", graph.add("Mul", y, sine), graph.add("Mul", x, cosine))
        centre = [graph.constant((side - 1) / 2) for side in self.size]
        return [graph.add("Add", point, at) for point, at in zip((down, across), centre, strict=True)]

    def _within(self, points: list[str], unit: int = 1) -> list[str]:
        """Points in shares of a pixel, those outside moved to the nearest pixel."""
        graph = self.graph
        ends = (graph.constant(float(unit * (side - 1))) for side in self.size)
        return [graph.add("Clip", point, graph.constant(0.0), end) for point, end in zip(points, ends, strict=True)]

    def _is_inside(self, points: list[str]) -> str:
        graph = self.graph
        known = []
        for point, side in zip(points, self.size, strict=True):
            known.append(graph.add("GreaterOrEqual", point, graph.constant(-0.5)))
            known.append(graph.add("LessOrEqual", point, graph.constant(side - 0.5)))
        return graph.add("And", graph.add("And", *known[:2]), graph.add("And", *known[2:]))

    def _sample(self, planes: str, channels: int, points: list[str]) -> str:
        """Values of planes (n, c, h, w) at points (n, h, w), none of them outside.

        Numbers are computed in planes: runtimes work through long last axes many times as fast as through those of 1 or
        3. A pixel and its next ones are put side by side, so that one look-up finds all four.
        """
        graph, (height, width) = self.graph, self.size
        rows, columns = points
        whole = [graph.add("Cast", axis, to=7) for axis in points]  # int64, which cuts off what is between pixels
        place = graph.add("Add", graph.add("Mul", whole[0], graph.integers(width)), whole[1])
        depth = channels
        if self.rotation is not None:
            wide = graph.add("Pad", planes, graph.integers([0, 0, 0, 0, 0, 0, 1, 1]), mode="edge")
            lower = [graph.slice(wide, down, down + height, 2) for down in (0, 1)]
            corners = [graph.slice(part, right, right + width, 3) for right in (0, 1) for part in lower]
            planes, depth = graph.add("Concat", *corners, axis=1), 4 * channels
        pixels = graph.add("Transpose", graph.reshape(planes, [0, depth, height * width]), perm=[0, 2, 1])
        found = graph.add("GatherND", pixels, graph.reshape(place, [0, -1, 1]), batch_dims=1)
        planes = graph.reshape(graph.add("Transpose", found, perm=[0, 2, 1]), [0, depth, height, width])
        if self.rotation is None:
            return planes
        planes = graph.add("Cast", planes, to=1)
        for axis, at, half in ((columns, whole[1], 2 * channels), (rows, whole[0], channels)):
            # integers are negated, and 1 - share is |share - 1|: see padim_jax.export.correlation
            minus = graph.add("Cast", graph.add("Mul", at, graph.integers(-1)), to=1)
            share = graph.reshape(graph.add("Add", axis, minus), [0, 1, height, width])
            first, second = graph.split(planes, 2, half, 1)
            rest = graph.add("Mul", first, graph.add("Abs", graph.add("Add", share, graph.constant(-1.0))))
            planes = graph.add("Add", rest, graph.add("Mul", second, share))
        return planes
