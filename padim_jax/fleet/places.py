"""Devices with the network on each, lent to a few models at a time."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax

from padim_jax.backbones import Backbone


@dataclass(eq=False)
class Place:
    """A device, with the network on it.

    Attributes:
      device: of JAX.
      backbone: on the device.
      warm: whether a model was fitted here, so that all programs are compiled.
      compiling: held by the only model that is fitted here until it is warm.
    """

    device: Any
    backbone: Backbone
    warm: bool = False
    compiling: threading.Lock = field(default_factory=threading.Lock)


class Places:
    """Where models are fitted.

    Args:
      backbone: of all models.
      devices: of JAX.
      per_device: how many models a device fits at a time.

    Attributes:
      total: how many models can be fitted at a time.
    """

    def __init__(self, backbone: Backbone, devices: Sequence[Any], per_device: int) -> None:
        places = [Place(device, _put(device, backbone)) for device in devices]
        self._free = deque(places * per_device)
        self.total = len(self._free)

    @contextmanager
    def lend(self) -> Iterator[Place]:
        """A free place, to no more than :attr:`total` threads at a time; what JAX makes meanwhile is made there."""
        place = self._free.popleft()  # in one step, whatever other threads do
        try:
            with nullcontext() if place.warm else place.compiling, jax.default_device(place.device):
                yield place
        finally:
            self._free.append(place)


def _put(device: Any, backbone: Backbone) -> Backbone:
    """The network on ``device``, as what is made there by default: bound to it, it would take programs of its own."""
    with jax.default_device(device):
        return jax.device_put(jax.device_get(backbone))
