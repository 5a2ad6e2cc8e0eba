"""Named arrays in a folder of Orbax checkpoints, a large one in parts, so that no large array is in memory twice."""

import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

PART_BYTES = 128 * 2**20  # an array beyond that is written and read in parts of its first axis


def first_line(error: BaseException) -> str:
    """Of what an error says, for a message of our own; its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class ArtifactError(ValueError):
    """The folder is no model that can be loaded; the message names it and says why.

    >>> padim.load(folder / "good")
    Traceback (most recent call last):
    ...
    padim_jax.artifact.arrays.ArtifactError: ...
    """


@dataclass(frozen=True)
class LazyArray:
    """An array that is computed part by part as it is written.

    Attributes:
      shape, dtype: of the whole.
      make: computes the rows of a slice.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[slice], np.ndarray]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.make(rows)


def write_arrays(directory: Path, arrays: Mapping[str, Any], parts: Mapping[str, list[int]]) -> dict[str, int]:
    """Write arrays to ``directory``; gives the checksums of its files."""
    small = {name: array for name, array in arrays.items() if name not in parts}
    checked = {
        name: _check_finite(name, array[:] if isinstance(array, LazyArray) else array) for name, array in small.items()
    }
    options = _single_process()
    # factors hardly compress, and their sizes are announced beforehand
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        if checked:  # Orbax refuses to save no arrays at all
            checkpointer.save(directory.resolve(), args=ocp.args.PyTreeSave(checked))
        del checked
        for name, rows in parts.items():
            for index, (start, stop) in enumerate(spans(rows)):
                part = _check_finite(name, arrays[name][start:stop])
                checkpointer.save(part_folder(directory.resolve(), name, index), args=ocp.args.PyTreeSave({name: part}))
    return checksums(directory)


def _check_finite(name: str, array: Any) -> np.ndarray:
    values = np.asarray(array)
    if not np.isfinite(values).all():
        raise ArtifactError(f"save: {name} is not finite, so the model could not be loaded again; nothing was written")
    return values


def make_arrays(arrays: Mapping[str, Any]) -> None:
    """Compute the arrays as :func:`write_arrays` does, but write none: all processes must compute what one writes."""
    parts = part_rows(arrays)
    for name, array in arrays.items():
        if name not in parts and isinstance(array, LazyArray):
            array[:]
    for name, rows in parts.items():
        for start, stop in spans(rows):
            arrays[name][start:stop]


def _single_process() -> ocp.options.MultiprocessingOptions:
    """Options for the checkpoint of one process, which waits for no other."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process-{index}"
    )


def part_rows(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """Rows of each part, for the arrays that are written in several."""
    return {name: rows for name, array in arrays.items() if len(rows := _part_rows(array.shape, array.dtype)) > 1}


def _part_rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[int]:
    """Rows of each part that an array is written in."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= PART_BYTES:
        return [shape[0]] if shape else [1]
    rows = max(1, shape[0] * PART_BYTES // size)
    return [min(rows, shape[0] - start) for start in range(0, shape[0], rows)]


def spans(rows: list[int]) -> list[tuple[int, int]]:
    """Start and stop of consecutive parts with these numbers of rows."""
    stops = list(itertools.accumulate(rows))
    return list(zip([0, *stops], stops, strict=False))


def part_folder(directory: Path, name: str, index: int) -> Path:
    """Folder of one part of array ``name``."""
    return directory / f"{name}.part-{index:05}"


def checksums(directory: Path) -> dict[str, int]:
    """CRC-32 of every file below ``directory``, by relative path: against decay and partial copies, not malice."""
    by_path: dict[str, int] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        checksum = 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
        by_path[path.relative_to(directory).as_posix()] = checksum
    return by_path


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def restore_arrays(
    directory: Path, recorded: Mapping[str, Any], dtypes: Mapping[str, str], *, partly: bool = False
) -> dict[str, np.ndarray]:
    """Arrays of these shapes from the checkpoint ``directory``; float32 except those in ``dtypes``.

    Raises:
      ArtifactError: damaged, or other arrays than recorded; with ``partly`` there may be more.
    """
    try:
        options = _single_process()
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
            stored = checkpointer.metadata(directory.resolve()).item_metadata.tree
            for name, shape in recorded.items():
                if name not in stored or list(stored[name].shape) != shape:
                    raise ValueError(f"array {name} is missing or has another shape than recorded")
                chunk = getattr(stored[name].storage, "chunk_shape", None) or ()
                if math.prod(chunk) > max(1, math.prod(shape)):
                    raise ValueError(f"array {name} is stored in pieces larger than it is")
            arguments = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in recorded}
            restored = checkpointer.restore(
                directory.resolve(),
                args=ocp.args.PyTreeRestore(
                    item=dict.fromkeys(recorded, 0),
                    restore_args=arguments,
                    partial_restore=partly,
                ),
            )
    except Exception as error:  # a damaged checkpoint can fail anywhere in Orbax and TensorStore
        reason = first_line(error)
        raise ArtifactError(f"load: {directory} is damaged ({reason}); restore the model from a copy") from error
    expected = {name: dtypes.get(name, "float32") for name in restored}
    if mismatched := [name for name, array in restored.items() if array.dtype != expected[name]]:
        dtype, expected_dtype = restored[mismatched[0]].dtype, expected[mismatched[0]]
        raise ArtifactError(f"load: {directory} is damaged: {mismatched[0]} is {dtype}, wanted {expected_dtype}")
    return restored
