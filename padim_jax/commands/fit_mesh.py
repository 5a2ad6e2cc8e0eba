"""``padim fit`` on several devices or by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from jax.sharding import Mesh

from padim_jax import mesh as meshes
from padim_jax.backbones import Backbone
from padim_jax.commands.calibrate import going_on, rates_of, stop_and_say
from padim_jax.commands.terminal import Notes, interruption, keep_stdout, progress_bar, say, wrong_use
from padim_jax.config import PadimConfig
from padim_jax.images import UnreadableImage
from padim_jax.mesh import MeshModel
from padim_jax.mesh.processes import agreed, connect, together
from padim_jax.method.calibration import Calibration
from padim_jax.method.fitting import init
from padim_jax.runs.calibrate import TooFewImages, calibration_files, can_leave_out, check_plausible, few_of
from padim_jax.runs.fold import Interrupted, identity
from padim_jax.runs.mesh_fold import MeshCheckpoint, Shared, calibrate_shared, fold_shared, save_shared


@dataclass(frozen=True)
class MeshOptions:
    """What its options were given."""

    devices: int | None
    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    distributed: bool
    grid: int | None

    def mesh(self) -> Mesh | None:
        """Join the other processes, if there are any; the mesh of all their devices. None: one device will do."""
        several = self.distributed or any(
            value is not None for value in (self.coordinator, self.num_processes, self.process_id)
        )
        with wrong_use():
            if several:
                keep_stdout()
                connect(self.coordinator, self.num_processes, self.process_id)
            elif self.devices is None and self.grid is None:
                return None
            here = jax.local_device_count()
            if self.devices is not None and self.devices > here:
                raise ValueError(f"--devices {self.devices}: this machine has {here} ({jax.devices()[0].platform})")
            each = self.devices or here
            ours: dict[int, list[Any]] = {}
            for device in jax.devices():
                ours.setdefault(device.process_index, []).append(device)
            chosen = [device for _, devices in sorted(ours.items()) for device in devices[:each]]
            grid = self.grid or each
            return meshes.device_mesh(max(1, len(chosen) // grid), grid, chosen)


@together()
def fit_on_mesh(
    network: Backbone,
    paths: Sequence[Path],
    config: PadimConfig,
    mesh: Mesh,
    out: Path,
    *,
    region: Any,
    others: Sequence[Path] | None,
    wanted: bool,
    trusted: bool,
    rates: tuple[float | None, float | None],
    skip_unreadable: bool,
    checkpoint_every: int,
    batch_size: int,
) -> tuple[Shared, Calibration | None] | None:
    """Fit, calibrate and save, in step with the other processes; what was done, in process 0."""
    if config.projection == "principal-components":
        raise click.UsageError("--projection principal-components is found on one device only; fit without --devices")
    first, known = jax.process_index() == 0, identity(network, config, paths)
    agreed("files, settings or weights", known)
    checkpoint = MeshCheckpoint(mesh_checkpoint(out), known, checkpoint_every)
    empty = jax.eval_shape(lambda: init(network, config))
    backbone = meshes.replicated(mesh, network)
    shared = checkpoint.read(mesh, empty)
    if shared is None:
        if checkpoint.folder.exists() and first:
            say(f"{checkpoint.folder} is of other files or settings; fitting from the start")
        shared = Shared(meshes.init(mesh, network, config))
    notes, found = Notes(), None
    with interruption() as stopped, going_on():
        with progress_bar("fit", len(paths), shown=first) as advance:
            fold_shared(
                backbone,
                shared,
                paths,
                batch_size=batch_size,
                unreadable=(lambda error: None) if skip_unreadable else stop_and_say("--skip-unreadable"),
                note=notes,
                advance=advance,
                checkpoint=checkpoint,
                stopped=stopped,
            )
        whole = meshes.joined(shared.moments)
        model = meshes.finalize(backbone, whole, mesh)
        if region is not None:
            model = replace(model, model=replace(model.model, roi=meshes.replicated(mesh, region)))
        if wanted:
            if jax.process_count() > 1:  # whatever happens to one of them, the others can't keep it then
                shared.moments = meshes.split(mesh, whole)
                checkpoint.write(shared)
            try:
                fitted = [path for path in paths if str(path) not in shared.skipped]
                calibrate = partial(calibrate_shared, model, batch_size=batch_size, stopped=stopped)
                found = _calibrated(calibrate, model, fitted, shared, others, rates, trusted)
            except Exception as error:
                if jax.process_count() == 1:
                    shared.moments = meshes.split(mesh, whole)
                    checkpoint.write(shared)
                if not isinstance(error, Interrupted):
                    raise
                raise Interrupted(f"{error}; the fit is kept in {checkpoint.folder}") from error
    del model  # its factors take as much room as the moments
    save_shared(network, shared, whole, found, region, out)
    checkpoint.remove()
    notes.say()
    return (shared, found) if first else None


def _calibrated(
    calibrate: Callable[..., Calibration],
    model: MeshModel,
    fitted: Sequence[Path],
    shared: Shared,
    others: Sequence[Path] | None,
    rates: tuple[float | None, float | None],
    trusted: bool,
) -> Calibration | None:
    """The calibration on ``others`` if given, fitted on or not, else on the files ``fitted``, left out in turn."""
    first, (false_alarm_rate, pixel_rate) = jax.process_index() == 0, rates_of(None, *rates)
    try:
        with wrong_use(but=(TooFewImages, UnreadableImage)):
            files, weights = calibration_files(model.model, fitted, shared.images, others)
    except TooFewImages as error:
        if first:
            say(f"not calibrated: {error}")
        return None
    with progress_bar("calibrate", len(files), shown=first) as advance:
        found = calibrate(files, weights, false_alarm_rate=false_alarm_rate, pixel_rate=pixel_rate, advance=advance)
    if weights is None and not trusted and can_leave_out(model.model, shared.images):
        own = calibrate(few_of(fitted), shared.images)
        check_plausible("calibrate", np.asarray(found.scores), np.asarray(own.scores))
    return found


def mesh_checkpoint(out: Path) -> Path:
    """Where an unfinished fit on a mesh is kept."""
    return out.with_name(f"{out.name}.unfinished-mesh")
