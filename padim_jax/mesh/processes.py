"""Processes that run one fit together: they connect, agree, exchange arrays, and fail together with a message.

All transport is JAX's own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

_HEARTBEAT = 20  # seconds without a sign of life before a process counts as dead
_LAST_WORDS = 5  # seconds


class ProcessFailed(ConnectionError):
    """Another process can't go on, so this one can't either; the message says what to do."""


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes through ``jax.distributed``; before anything is computed.

    Args:
      coordinator: HOST:PORT of process 0; None, as the other two, where SLURM, Open MPI or a TPU pod provides them.
      num_processes: of the whole job.
      process_id: of this one, from 0.

    Raises:
      ValueError: an incomplete or impossible combination, or no environment that provides them.
      OSError: the others were not there in time.
    """
    options = [coordinator, num_processes, process_id]
    if any(value is None for value in options) and any(value is not None for value in options):
        raise ValueError("--coordinator, --num-processes and --process-id belong together; give all three, or none")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"--process-id {process_id} is not among {num_processes} processes, 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT, initialization_timeout=45
        )
    except ValueError as error:
        raise ValueError(
            f"the environment does not connect the processes ({error}); give --coordinator, --num-processes and "
            "--process-id"
        ) from error
    except RuntimeError as error:
        raise OSError(f"the processes did not find each other: {str(error).splitlines()[0]}") from error


@contextmanager
def explain_failures() -> Iterator[None]:
    """Turn the failure of a collective, after another process has gone, into a message."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # jaxlib gives some failures of Gloo as the latter
        reason = str(error).splitlines()[0][:200]
        if jax.process_count() == 1 or (isinstance(error, ValueError) and "Gloo" not in reason):
            raise
        raise ProcessFailed(
            f"process {jax.process_index()} of {jax.process_count()} stops, because another one has gone ({reason}); "
            "start all of them again with the same command, and they go on from the last checkpoint"
        ) from error


def await_last_words() -> bool:
    """Whether there are other processes; the first of them gives the others time to say why they stop.

    They are ended when the first goes, and a regular end of any would wait for those that have gone already.
    """
    several = jax.distributed.is_initialized()
    if several and jax.process_index() == 0:
        time.sleep(_LAST_WORDS)
    return several


def check_agreement(what: str, text: str) -> None:
    """Raise ``ValueError`` unless ``text`` is the same in all processes."""
    own = np.frombuffer(text.encode()[:64].ljust(64), np.uint8)
    if (gather(own) != own).any():
        raise ValueError(
            f"the processes have different {what}; give all the same, and the same files at the same paths"
        )


def gather(own: np.ndarray) -> np.ndarray:
    """What each process gives, (processes, ...), in all of them."""
    if jax.process_count() == 1:
        return own[None]
    with explain_failures():
        return np.asarray(multihost_utils.process_allgather(own)).reshape(jax.process_count(), *own.shape)
