"""Where a run computes: on one device, or on a mesh of devices and processes. Both have the same methods.

A plain engine beside the mesh, and not a mesh of one device, because a mesh is a static part of its programs: each of 8
devices that fit models of their own would trace and compile them anew.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from padim_jax import mesh as meshes
from padim_jax.artifact import Updatable, save_updatable
from padim_jax.backbones import Backbone
from padim_jax.config import PadimConfig
from padim_jax.gaussians.moments import Moments
from padim_jax.mesh import MeshModel, MeshMoments
from padim_jax.mesh.processes import explain_failures, gather
from padim_jax.method import fitting, projection, scoring, variants
from padim_jax.method.centres import PatchSample, add_batch
from padim_jax.method.embedding import Embedding, draw_embedding
from padim_jax.method.records import Padim, PadimMoments, Scores
from padim_jax.method.regularisation import Statistics, covered_by_all, statistics_at
from padim_jax.method.standard import MapStandard
from padim_jax.runs.steps import Step

Roi = Bool[np.ndarray, "height width"] | None


@dataclass(frozen=True)
class LeftOut:
    """What a step's own images score, each by the model of all the others.

    Attributes:
      image_score: (n,), not finite where an image can't be left out.
      anomaly_map: (n, height, width).
      grid: (n, h, w), the distances that the map follows from.
      embeddings: (q, n, k) at some positions and of some channels, to see whether the parts are aligned.
      match: (n,), of aligned images; not a number of others.
    """

    image_score: Float[np.ndarray, " n"]
    anomaly_map: Float[np.ndarray, "n height width"]
    grid: Float[np.ndarray, "n h w"]
    embeddings: Float[np.ndarray, "q n k"]
    match: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class OneDevice:
    """The default device, by the functions of :mod:`padim_jax.method`.

    Attributes:
      backbone: the frozen network.
      full: every step is filled up to the batch size, so that runs over few files use the same programs as others.
    """

    backbone: Backbone
    full: bool = False

    def step_size(self, batch_size: int, count: int) -> int:
        """Images that each step of ``count`` files is filled up to."""
        return batch_size if self.full else min(batch_size, max(1, count))

    def init(self, config: PadimConfig, **found: Any) -> PadimMoments:
        """Moments of no image, with what passes of their own have found, by the names of :func:`padim_jax.init`."""
        return fitting.init(self.backbone, config, **found)

    def add_patches(
        self, config: PadimConfig, projection: Float[np.ndarray, "c d"] | None, sample: PatchSample, step: Step
    ) -> None:
        """Add the patches of a step's images to the sample that the components' centres are found from."""
        embedding = draw_embedding(self.backbone, config)
        matrix = fitting.projection_of(config, embedding, projection)
        add_batch(self.backbone, embedding, matrix, sample, step.images, step.valid)

    def place(self, moments: PadimMoments) -> PadimMoments:
        """Moments to continue from, in the form that :meth:`fold` takes."""
        return moments

    def fold(self, moments: PadimMoments, step: Step, half_life: float | None) -> PadimMoments:
        """Fold a step's images into ``moments``, which are used up."""
        return fitting.update_in_place(self.backbone, moments, step.images, step.valid, half_life=half_life)

    def whole(self, moments: PadimMoments) -> PadimMoments:
        """Moments of all images; ``moments`` are used up."""
        return moments

    def channel_moments(self, embedding: Embedding, moments: Moments | None, step: Step) -> Moments:
        """Fold a step's images into the moments of all channels over all patches, (1, c): for principal components."""
        moments = projection.channel_moments(embedding) if moments is None else moments
        valid = jnp.asarray(step.valid)
        return jax.block_until_ready(
            projection.fold_channels(self.backbone, embedding, moments, jnp.asarray(step.images), valid)
        )

    def directions(self, embedding: Embedding, moments: Moments | None) -> Float[np.ndarray, "c d"]:
        """The principal components of what :meth:`channel_moments` has folded."""
        return projection.leading_components(moments, embedding.dimension)

    def local(self, moments: PadimMoments) -> PadimMoments:
        """The :meth:`whole` moments on the default device."""
        return moments

    def statistics(self, moments: PadimMoments, positions: np.ndarray) -> Statistics:
        """Of :meth:`whole` moments at some positions, on the host."""
        return statistics_at(moments, positions)

    def covered_by_all(self, moments: PadimMoments) -> Bool[np.ndarray, " p"] | None:
        """As of :mod:`padim_jax.method.regularisation`, of :meth:`whole` moments."""
        return covered_by_all(moments)

    def finalize(self, moments: PadimMoments, roi: Roi, *, donate: bool = False) -> Padim:
        """The model of :meth:`whole` or :meth:`local` moments; ``donate`` uses them up where that saves room."""
        return variants.with_roi(fitting.finalize(self.backbone, moments, donate=donate), roi)

    def hold(self, model: Padim) -> Padim:
        """A model that was made elsewhere, as :meth:`score` and :meth:`leave_out` take it."""
        return model

    def model(self, held: Padim) -> Padim:
        """The model that is held, for its settings; its arrays may lie on any device."""
        return held

    def scores(self, held: Padim, images: np.ndarray) -> Scores:
        """Scores of as many images as :meth:`step_size` says, not waited for, without p-values and verdicts."""
        return scoring.score(replace(held, calibration=None), images)

    def score(self, held: Padim, step: Step) -> LeftOut:
        """Score a step's own images by a model that was not fitted on them; there are no embeddings."""
        n, (scores, grid) = int(step.valid.sum()), scoring.score_with_grid(held, step.images)
        return self._own(n, scores, grid, np.zeros((0, n, 0)))

    def with_standard(self, held: Any, standard: MapStandard | None) -> Any:
        """As :func:`padim_jax.method.variants.with_standard`, of a model that is held."""
        return variants.with_standard(held, standard)

    def for_leave_one_out(self, call: str, held: Padim) -> Padim:
        """A model that is held, as :meth:`leave_out` takes it; ``NoLeaveOneOut`` where it can't be."""
        return scoring.for_leave_one_out(call, held)

    def leave_out(self, held: Padim, step: Step, weights: Float[np.ndarray, " n"]) -> LeftOut:
        """Score a step's own images, fitted with ``weights`` (0 of those that don't count), each left out in turn."""
        n = int(step.valid.sum())
        scores, _, embeddings, grid = scoring.score_left_out(held, step.images, weights)
        return self._own(n, scores, grid, np.asarray(embeddings)[:, :n])

    def save(self, stored: Updatable, folder: Any, *, keep_previous: bool = False) -> None:
        """Save a model of :meth:`whole` moments."""
        save_updatable(stored, folder, keep_previous=keep_previous)

    @staticmethod
    def _own(n: int, scores: Scores, grid: Array, embeddings: np.ndarray) -> LeftOut:
        values, maps, distances = (np.asarray(array)[:n] for array in (scores.image_score, scores.anomaly_map, grid))
        match = np.full(n, np.nan, np.float32) if scores.match is None else np.asarray(scores.match)[:n]
        return LeftOut(values, maps, distances, embeddings, match)


class ManyDevices:
    """A mesh of devices, of one process or several, by the functions of :mod:`padim_jax.mesh`.

    Args:
      backbone: the frozen network, as of one device.
      mesh: of all devices of all processes.
    """

    def __init__(self, backbone: Backbone, mesh: Mesh) -> None:
        self.backbone, self.mesh = backbone, mesh
        self._network = meshes.replicated(mesh, backbone)

    def step_size(self, batch_size: int, count: int) -> int:
        """Images that each process fills a step of ``count`` files up to: a multiple of its devices."""
        n_local = len(self.mesh.local_devices)
        return -(-min(batch_size, max(1, count)) // n_local) * n_local

    def init(self, config: PadimConfig, **found: Any) -> MeshMoments:
        """As :meth:`OneDevice.init`; ``ValueError`` where there are several components."""
        meshes.check_components("fit", config)
        return meshes.init(self.mesh, self.backbone, config, **found)

    def add_patches(
        self, config: PadimConfig, projection: Float[np.ndarray, "c d"] | None, sample: PatchSample, step: Step
    ) -> None:
        """Raise ``ValueError``: components are found on one device."""
        meshes.check_components("fit", config)

    def place(self, moments: PadimMoments) -> MeshMoments:
        """As :meth:`OneDevice.place`; from one device, or as :meth:`whole` gives them."""
        return meshes.split(self.mesh, moments if self._are_spread(moments) else jax.device_get(moments))

    def fold(self, moments: MeshMoments, step: Step, half_life: float | None) -> MeshMoments:
        """As :meth:`OneDevice.fold`."""
        with explain_failures():
            images, valid = self._shared(step.images), self._shared(step.valid)
            return jax.block_until_ready(
                meshes.update(self._network, moments, images, valid, half_life=half_life)
            )  # one step in flight: a fast reader must not queue up images

    def whole(self, moments: MeshMoments) -> PadimMoments:
        """As :meth:`OneDevice.whole`, the positions shared out over all devices."""
        with explain_failures():
            return meshes.joined(moments)

    def channel_moments(self, embedding: Embedding, moments: Moments | None, step: Step) -> Moments:
        """As :meth:`OneDevice.channel_moments`, apart on every device."""
        with explain_failures():
            images, valid = self._shared(step.images), self._shared(step.valid)
            return jax.block_until_ready(
                meshes.channel_moments(self.mesh, self._network, embedding, moments, images, valid)
            )

    def directions(self, embedding: Embedding, moments: Moments | None) -> Float[np.ndarray, "c d"]:
        """As :meth:`OneDevice.directions`."""
        with explain_failures():
            merged = None if moments is None else meshes.merged_channels(self.mesh, moments)
        return projection.leading_components(merged, embedding.dimension)

    def local(self, moments: PadimMoments) -> PadimMoments:
        """As :meth:`OneDevice.local`."""
        with explain_failures():
            handed = meshes.handed_over(moments)
            scatter = handed.moments.scatter[:]  # pyright: ignore[reportIndexIssue]  # stands in for the matrix
        return jax.device_put(replace(handed, moments=replace(handed.moments, scatter=scatter)))

    def statistics(self, moments: PadimMoments, positions: np.ndarray) -> Statistics:
        """As :meth:`OneDevice.statistics`."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        with explain_failures():
            return statistics_at(moments, positions, out_shardings=everywhere)

    def covered_by_all(self, moments: PadimMoments) -> Bool[np.ndarray, " p"] | None:
        """As :meth:`OneDevice.covered_by_all`."""
        with explain_failures():
            return covered_by_all(moments, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def finalize(self, moments: PadimMoments, roi: Roi, *, donate: bool = False) -> MeshModel:
        """As :meth:`OneDevice.finalize`."""
        if not self._are_spread(moments):
            moments = self.whole(self.place(moments))
        with explain_failures():
            held = meshes.finalize(self._network, moments, self.mesh)
            if roi is None:
                return held
            return replace(held, model=replace(held.model, roi=meshes.replicated(self.mesh, jnp.asarray(roi))))

    def hold(self, model: Padim) -> MeshModel:
        """As :meth:`OneDevice.hold`."""
        return meshes.place(self.mesh, model)

    def model(self, held: MeshModel) -> Padim:
        """As :meth:`OneDevice.model`."""
        return held.model

    def scores(self, held: MeshModel, images: np.ndarray) -> Scores:
        """As :meth:`OneDevice.scores`."""
        with explain_failures():
            return meshes.score(held, self._shared(images))

    def score(self, held: MeshModel, step: Step) -> LeftOut:
        """As :meth:`OneDevice.score`."""
        with explain_failures():
            scores, grid = meshes.score_with_grid(held, self._shared(step.images))
            return self._own(step, scores, grid)

    def with_standard(self, held: Any, standard: MapStandard | None) -> Any:
        """As :meth:`OneDevice.with_standard`."""
        everywhere = None if standard is None else meshes.replicated(self.mesh, standard)
        return replace(held, model=variants.with_standard(held.model, everywhere))

    def for_leave_one_out(self, call: str, held: MeshModel) -> MeshModel:
        """As :meth:`OneDevice.for_leave_one_out`."""
        return replace(held, model=scoring.for_leave_one_out(call, held.model))

    def leave_out(self, held: MeshModel, step: Step, weights: Float[np.ndarray, " n"]) -> LeftOut:
        """As :meth:`OneDevice.leave_out`."""
        with explain_failures():
            scores, embeddings, grid = meshes.score_left_out(held, self._shared(step.images), self._shared(weights))
            return self._own(step, scores, grid, embeddings)

    def save(self, stored: Updatable, folder: Any, *, keep_previous: bool = False) -> None:
        """As :meth:`OneDevice.save`: process 0 writes, the others hand it their parts.

        Raises:
          ArtifactError, OSError: as there.
          ProcessFailed: process 0 could not write.
        """
        with explain_failures():
            handed = replace(stored, moments=meshes.handed_over(stored.moments))
            save_updatable(handed, folder, attending=jax.process_index() > 0, keep_previous=keep_previous)
        gather(np.zeros(1))  # until it is there

    def _are_spread(self, moments: PadimMoments) -> bool:
        return jax.tree.leaves(moments)[0].sharding.device_set == set(self.mesh.devices.flat)

    def _shared(self, local: np.ndarray) -> Array:
        return meshes.shared_out(self.mesh, local)

    def _own(self, step: Step, scores: Scores, grid: Array, embeddings: Array | None = None) -> LeftOut:
        n = int(step.valid.sum())
        sample = np.zeros((0, n, 0)) if embeddings is None else meshes.columns_here(embeddings)[:, :n]
        values, maps, distances = (
            meshes.rows_here(array)[:n] for array in (scores.image_score, scores.anomaly_map, grid)
        )
        match = np.full(n, np.nan, np.float32) if scores.match is None else meshes.rows_here(scores.match)[:n]
        return LeftOut(values, maps, distances, sample, match)


Engine = OneDevice | ManyDevices


def engine(backbone: Backbone, mesh: Mesh | None = None) -> Engine:
    """The engine of a mesh, or of the default device where there is none."""
    return OneDevice(backbone) if mesh is None else ManyDevices(backbone, mesh)
