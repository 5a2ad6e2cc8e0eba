"""What a fit and a score will take, before either is run: bytes of state, size on disk, peak memory, seconds.

Three sources, kept apart: XLA's own account of the very programs that fit and score run, compiled for shapes alone;
what is measured here, on a few positions of the grid and two batches; and what the code holds at the same time, phase
by phase. A peak is the largest phase.
"""

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from padim_jax.artifact import arrays
from padim_jax.artifact.folder import write
from padim_jax.artifact.layouts import form_bytes, tree_bytes
from padim_jax.artifact.manifest import read_manifest
from padim_jax.artifact.stored import StoredArrays
from padim_jax.backbones import Backbone, backbone_parameters
from padim_jax.config import RIDGE, Form, PadimConfig
from padim_jax.gaussians import factors, packing
from padim_jax.gaussians import moments as gaussian_moments
from padim_jax.gaussians.pooling import Prior
from padim_jax.gaussians.triangle import SymmetricMatrix
from padim_jax.inspection.cost import Cost, measure_compiling, measure_run, resident
from padim_jax.method import fitting, programs
from padim_jax.method.aligned import Alignment, embed_aligned
from padim_jax.method.anomaly_map import anomaly_map, image_score
from padim_jax.method.calibration import BINS
from padim_jax.method.embedding import draw_embedding
from padim_jax.method.positions import arrangement_of, n_gaussians
from padim_jax.method.projection import semi_orthogonal
from padim_jax.method.records import Padim, PadimMoments
from padim_jax.runs.outputs import LONGEST_SIDE, write_heatmap
from padim_jax.runs.score import ScoredImage

PIECE_BYTES = 128 * 2**20  # of the scatter that is really computed with
FORMS = get_args(Form)
_SMALL = 60_000  # of a model's folder: manifest and Orbax's own records
_PICTURE = 30  # bytes a pixel of the photo while a heat map is drawn
_AHEAD = 3  # batches of decoded images: that in work and two ahead


@dataclass(frozen=True)
class Phase:
    """What is held at the peak of one phase, in bytes; on a CPU the device's memory is the host's."""

    name: str
    host: int
    device: int


@dataclass(frozen=True)
class Estimate:
    """What a fit on ``images`` images, and a score of as many, will take.

    Attributes:
      images: n.
      positions: p.
      dimension: d.
      state: bytes of the moments.
      factors: bytes of a fitted model's means and factors.
      disk: bytes on disk of each form (see ``FORMS``); forms that need n ≤ d only where it is.
      fit: phases of ``padim fit`` with calibration.
      score: phases of ``padim score``.
      fit_seconds: of ``padim fit``, by part.
      score_seconds: of ``padim score``, by part.
      measured_positions: how many of the p positions were computed with.
      accelerator: whether the device has memory of its own.
    """

    images: int
    positions: int
    dimension: int
    state: int
    factors: int
    disk: Mapping[str, int]
    fit: tuple[Phase, ...]
    score: tuple[Phase, ...]
    fit_seconds: Mapping[str, float]
    score_seconds: Mapping[str, float]
    measured_positions: int
    accelerator: bool


@dataclass(frozen=True)
class Files:
    """What reading the image files costs.

    Attributes:
      pixels: of the largest file, height times width.
      seconds: to read and decode one, all threads at work; None where no file was there to time.
    """

    pixels: int
    seconds: float | None = None


def sizes_on_disk(
    positions: int,
    dimension: int,
    images: int,
    parameters: int,
    map_pixels: int = 0,
    *,
    full_rank: bool = False,
    exact: bool = False,
) -> dict[str, int]:
    """Bytes of each form of a calibrated model; of low rank where n ≤ d and not full, in 16 bits unless ``exact``.

    Those of :func:`padim_jax.artifact.layouts.form_bytes` with rank n - 1, and the backbone's ``parameters``, the
    scores and the histogram of the calibration, and two maps where others are standardised by them.
    """
    common = 4 * (parameters + images + BINS + 2 * map_pixels) + _SMALL
    low = images <= dimension and not full_rank
    sizes = {
        form: common + form_bytes(form, positions, dimension, max(1, images - 1))
        for form in FORMS
        if (low or not form.startswith("low-rank")) and not (exact and form.endswith("16bit"))
    }
    sizes["updatable"] += 50 * images  # a digest and a weight each
    return sizes


def estimate(
    backbone: Backbone,
    config: PadimConfig,
    images: int,
    batch: UInt8[np.ndarray, "n height width 3"],
    files: Files,
    *,
    starting: float = 0.0,
) -> Estimate:
    """Estimate a fit and a score of ``images`` images in batches like ``batch``.

    Allocates the state of at most ``PIECE_BYTES`` of the p positions; all else is compiled for shapes. Call it in a
    process that has done nothing but load the backbone: what that holds is the constant of the estimate.

    Args:
      backbone: the network.
      config: the settings.
      images: n, 2 or more.
      batch: images as the fit will see them.
      files: what reading them costs.
      starting: seconds until a process has imported everything and loaded the backbone.

    Raises:
      ValueError: fewer than two images, or settings as :func:`padim_jax.init`.
    """
    if images < 2:
        raise ValueError(f"estimate: images={images}, wanted 2 or more: a fit needs as many")
    loaded = resident()
    state = _abstract_state(backbone, config)
    # in the order of a fit: memory that compiling gave back is there for what runs next
    update = _compile_update(backbone, state, batch)
    embedded, embedding = _embed_batch(backbone, state, batch)
    costs, model = _compile_programs(backbone, state, batch, update)
    side = min(LONGEST_SIDE, math.isqrt(files.pixels))  # of a photo in a heat map
    pieces = _run_piece(state, batch, embedded, embedding, side)
    accelerator = jax.default_backend() != "cpu"
    p, d = state.embedding.n_positions, state.embedding.dimension
    g = n_gaussians(config, state.embedding)
    parameters = sum(array.size for array in backbone_parameters(backbone).values())
    map_pixels = math.prod(config.crop) if config.is_standardised else 0
    disk = sizes_on_disk(
        g, d, images, parameters, map_pixels, full_rank=config.has_full_rank, exact=config.n_components > 1
    )
    memory = _Memory(
        loaded=loaded,
        decoding=(_AHEAD + 2) * batch.nbytes + (os.cpu_count() or 1) * 6 * files.pixels,
        drawing=(os.cpu_count() or 1) * (6 * files.pixels + _PICTURE * side**2),
        state=tree_bytes(state),
        factors=tree_bytes(model.gaussian),
        packed=disk["triangle"],
        weights=4 * parameters,
        costs=costs,
        pieces=pieces.costs,
        accelerator=accelerator,
    )
    batches, reading = -(-images // len(batch)), images * (files.seconds or 0.0)
    seconds = {name: cost.seconds for name, cost in pieces.costs.items()}
    fit_seconds = {
        "start": starting,
        "compile": sum(costs[name].compiling for name in ("update", "factor", "leave_one_out")),
        "read": (1 + config.passes) * reading,
        "update": config.passes * batches * (seconds["embed"] + seconds["update"]),
        "factor": seconds["factor"],
        "calibrate": batches * (seconds["embed"] + seconds["leave_one_out"] + seconds["map"]),
        "save": pieces.saving,
    }
    score_seconds = {
        "start": starting,
        "compile": sum(costs[name].compiling for name in ("factor", "score")),
        "load": pieces.loading,
        "factor": seconds["factor"],
        "read": reading,
        "score": batches * (seconds["embed"] + seconds["score"] + seconds["map"]),
        "heat maps": images * pieces.drawing + reading,  # for the photo is read again
    }
    return Estimate(
        images,
        p,
        d,
        tree_bytes(state),
        tree_bytes(model.gaussian),
        disk,
        memory.of_fit(),
        memory.of_score(),
        fit_seconds,
        score_seconds,
        pieces.positions,
        accelerator,
    )


@dataclass(frozen=True)
class _Memory:
    """What is held at the same time, phase by phase."""

    loaded: int  # the process: interpreter, imports, backbone
    decoding: int
    drawing: int
    state: int
    factors: int
    packed: int
    weights: int
    costs: Mapping[str, Cost]
    pieces: Mapping[str, Cost]
    accelerator: bool

    def of_fit(self) -> tuple[Phase, ...]:
        """Phases of ``padim fit``: it keeps the moments, for saving, beside the factors it calibrates."""
        calibrating = self.state + self.factors
        return (
            self._phase("update", ("update",), self.state, self.decoding),
            self._phase("factor", ("update", "factor"), self.state + self.costs["factor"].output),
            self._phase("calibrate", ("update", "factor", "leave_one_out"), calibrating, self.decoding),
            self._phase("save", ("update", "factor", "leave_one_out"), self.state, 3 * self._part, False),
        )

    def of_score(self) -> tuple[Phase, ...]:
        """Phases of ``padim score`` on the updatable model that a fit writes."""
        # unpacked on the host part by part, then moved to the device panel by panel, the largest a third of it
        return (
            self._phase("load", (), self.state, max(2 * self._part, self.state // 3), False),
            self._phase("factor", ("factor",), self.state),
            self._phase("score", ("factor", "score"), self.factors, self.decoding + self.drawing),
        )

    @property
    def _part(self) -> int:
        """Of the triangles; reading takes as much again in Orbax, writing twice that."""
        return min(self.packed, arrays.PART_BYTES)

    def _phase(self, name: str, programs: Sequence[str], device: int, host: int = 0, running: bool = True) -> Phase:
        # what the network's libraries have taken they keep
        libraries = self.pieces["embed"].hidden if {"update", "score"} & set(programs) else 0
        process = self.loaded + sum(self.costs[program].code for program in programs) + libraries + host
        if running:
            last = self.costs[programs[-1]]
            device += last.temporary + self.pieces[programs[-1]].hidden
            device += last.output if programs[-1] in ("leave_one_out", "score") else 0
        device_total = device + self.weights
        return Phase(name, process + (0 if self.accelerator else device), device_total)


@dataclass(frozen=True)
class _Pieces:
    costs: Mapping[str, Cost]  # hidden bytes and seconds scaled to all positions
    positions: int
    saving: float
    loading: float
    drawing: float


def _abstract_state(backbone: Backbone, config: PadimConfig) -> PadimMoments:
    """Moments of no image, for their shapes alone."""
    drawn, shapes = draw_embedding(backbone, config), dict[str, tuple[int, ...]]()
    if config.projection == "principal-components":
        shapes["projection"] = (len(drawn.channels), drawn.dimension)
    if config.align != "none":
        shapes["reference"] = (*config.crop, 3)
    if config.n_components > 1:
        shapes["centres"] = (config.n_components, drawn.dimension)
    found = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return jax.eval_shape(lambda found: fitting.init(backbone, config, **found), found)


def _compile_update(backbone: Backbone, state: PadimMoments, batch: np.ndarray) -> Cost:
    images, valid = jax.ShapeDtypeStruct(batch.shape, jnp.uint8), jax.ShapeDtypeStruct((len(batch),), bool)
    return measure_compiling(programs.update_donating, backbone, state, images, valid, None)


def _embed_batch(backbone: Backbone, state: PadimMoments, batch: np.ndarray) -> tuple[Array, Cost]:
    projection = None
    if state.projection is not None:
        projection = jnp.asarray(semi_orthogonal(state.config.seed, *state.projection.shape))
    alignment = None if state.alignment is None else Alignment.to(batch[0], state.alignment.max_angle)
    function = jax.jit(lambda network, *of: embed_aligned(network, state.embedding, *of).x)
    return measure_run(function, backbone, jnp.asarray(batch), projection, alignment)


def _compile_programs(
    backbone: Backbone, state: PadimMoments, batch: np.ndarray, update: Cost
) -> tuple[dict[str, Cost], Padim]:
    """The programs of fit and score, compiled for shapes alone, and the abstract model."""
    # the network is compiled twice, and the second time much of what that takes is there already: score, the first
    # to compile it in a process of its own, is held to take what update took
    images = jax.ShapeDtypeStruct(batch.shape, jnp.uint8)
    weights = jax.ShapeDtypeStruct((len(batch),), jnp.float32)
    without_scatter = replace(state.moments, scatter=SymmetricMatrix(()))
    scatter = state.moments.scatter
    solver = fitting.DEFAULT_SOLVER
    number, d = jax.ShapeDtypeStruct((), jnp.float32), state.embedding.dimension
    pooled = state.config.covariance == "pooled"
    prior = Prior(jax.ShapeDtypeStruct((d, d), jnp.float32), number) if pooled else None  # pyright: ignore[reportArgumentType]
    fitted = jax.eval_shape(partial(programs.factor, solver=solver), scatter, without_scatter, number, prior=prior)
    factor = measure_compiling(programs.factor, scatter, without_scatter, number, solver, prior)
    model = fitting.model_of(backbone, fitted, state)
    left_out = measure_compiling(programs.leave_one_out, model, images, weights, number, number)
    score = measure_compiling(programs.score, model, images)
    score = replace(score, code=max(score.code, update.code))
    return {"update": update, "factor": factor, "leave_one_out": left_out, "score": score}, model


def _run_piece(state: PadimMoments, batch: np.ndarray, embedded: Array, cost: Cost, side: int) -> _Pieces:
    """Run what follows the embedding on a piece of the grid, from its middle."""
    config, embedding = state.config, state.embedding
    p, d = embedding.n_positions, embedding.dimension
    arrangement = arrangement_of(config)
    piece = min(p, max(16, PIECE_BYTES // (4 * d * d) // 16 * 16))  # a number with divisors, as chunks need them
    piece = p if config.positions == "shared" else piece
    first, share = (p - piece) // 2, p / piece
    costs = {"embed": cost}
    x = embedded[first : first + piece]
    weights = jnp.ones(len(batch), jnp.float32)
    g, higher = arrangement.n_gaussians(piece), state.moments.higher is not None
    centres = None if state.moments.components is None else x[(np.arange(g) * 97) % len(x), 0]
    moments = gaussian_moments.init(g, d, higher=higher, centres=centres)
    update = jax.jit(lambda *of: arrangement.update(*of))
    moments, fold = measure_run(update, moments, x, weights)
    moments = update(moments, x[:, ::-1] * 0.5, weights)  # no two batches are alike
    costs["update"] = fold
    finalize = jax.jit(lambda moments: factors.finalize(moments, RIDGE, "inverse-factor"))
    fitted, costs["factor"] = measure_run(finalize, moments)
    left_out = jax.jit(lambda *of: arrangement.left_out_distances(*of, ridge=RIDGE))
    _, costs["leave_one_out"] = measure_run(left_out, fitted, x, moments.count, weights)
    distances, costs["score"] = measure_run(jax.jit(lambda *of: arrangement.distances(*of)), fitted, x)
    for name in ("update", "factor", "leave_one_out", "score"):
        part = costs[name]
        costs[name] = replace(part, hidden=int(part.hidden * share), seconds=part.seconds * share)
    grid = jnp.resize(distances.T, (len(batch), *embedding.grid))

    def draw(grid: Any) -> Any:
        maps = anomaly_map(grid, config.crop, config.sigma, config.interpolation)
        return maps, image_score(maps, config.top_share)

    (maps, values), costs["map"] = measure_run(jax.jit(draw), grid)
    packed = packing.pack_triangle(moments.scatter, lower=True)
    with tempfile.TemporaryDirectory() as folder:
        saving, loading = _time_storage(Path(folder) / "model", packed)
        photo = np.resize(batch[0], (side, side, 3))
        item = ScoredImage(Path("image"), float(values[0]), None, None, photo, np.asarray(maps[0]), config.crop)
        start = time.perf_counter()
        write_heatmap(Path(folder) / "map.png", item, (0.0, max(1e-6, float(values[0]))))
        drawing = time.perf_counter() - start
    return _Pieces(costs, piece, saving * share, loading * share, drawing)


def _time_storage(folder: Path, packed: np.ndarray) -> tuple[float, float]:
    """Seconds to write and to read."""
    start = time.perf_counter()
    write(folder, {}, {"triangle": packed})
    written = time.perf_counter()
    StoredArrays(folder, read_manifest(folder)).arrays()
    return written - start, time.perf_counter() - written
