"""The options of devices and processes, and the mesh they ask for."""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from padim_jax.commands.terminal import keep_stdout, wrong_use


@dataclass(frozen=True)
class MeshOptions:
    """The values of the options of devices and processes."""

    devices: int | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    distributed: bool = False
    grid: int | None = None

    def mesh(self) -> Mesh | None:
        """Join the other processes, if any, and return the mesh of all devices; None where one device will do."""
        several = self.distributed or any(
            value is not None for value in (self.coordinator, self.num_processes, self.process_id)
        )
        with wrong_use():
            if not several and self.devices is None and self.grid is None:
                return None
            from padim_jax.mesh import device_mesh  # takes a tenth of a second to import, which one device can spare
            from padim_jax.mesh.processes import connect

            if several:
                keep_stdout()
                connect(self.coordinator, self.num_processes, self.process_id)
            count = jax.local_device_count()
            if self.devices is not None and self.devices > count:
                raise ValueError(f"--devices {self.devices}: this machine has {count} ({jax.devices()[0].platform})")
            per_process = self.devices or count
            by_process: dict[int, list[Any]] = {}
            for device in jax.devices():
                by_process.setdefault(device.process_index, []).append(device)
            devices = [device for _, own in sorted(by_process.items()) for device in own[:per_process]]
            grid = self.grid or per_process
            return device_mesh(max(1, len(devices) // grid), grid, devices)
