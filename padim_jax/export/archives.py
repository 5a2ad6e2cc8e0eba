"""Arrays in ``.npz`` files that somebody else may have made: nothing is read that was not expected."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Expected = Mapping[str, tuple[np.dtype, tuple[int | None, ...]]]  # types and shapes by name; None for any length
_SLACK = 2**20  # bytes; what small files may be compressed to


def read_arrays(path: Path, expected: Expected, *, most_compressed: int) -> dict[str, np.ndarray]:
    """All arrays of a file, in its order, after the types and shapes that it announces were compared.

    Args:
      path: of an uncompressed or compressed ``.npz``.
      expected: what must be in it, and nothing else.
      most_compressed: bytes of arrays over bytes of the file; beyond that, and a megabyte, it is refused.

    Raises:
      ValueError: other arrays than expected, or larger ones than a file of that size can hold.
      OSError, zipfile.BadZipFile: a file that can't be read, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if sorted(f"{name}.npy" for name in expected) != sorted(member.filename for member in members):
            raise ValueError(f"it holds the arrays {', '.join(names)[:200]}, wanted {', '.join(expected)[:200]}")
        size = sum(_announced(archive, member, *expected[name]) for name, member in zip(names, members, strict=True))
        if size > (most := most_compressed * path.stat().st_size + (_SLACK if most_compressed > 1 else 0)):
            raise ValueError(f"it announces {size} bytes of arrays, where its file can hold {most}")
        arrays = dict[str, np.ndarray]()
        for name, member in zip(names, members, strict=True):
            with archive.open(member) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _announced(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, dtype: np.dtype, shape: tuple[int | None, ...]
) -> int:
    """Bytes of an array by its header, once that was found to be as expected."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others have no bound on a step
        raise ValueError(f"{member.filename} is compressed in a way that NumPy does not write")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):  # headers of later ones have no bound
            raise ValueError(f"{member.filename} is of another version of NumPy's format")
        found, _, kind = np.lib.format.read_array_header_1_0(stream)
    fits = len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))
    if not fits or kind != dtype:
        raise ValueError(f"{member.filename} is {kind} of shape {found}, wanted {dtype} of {shape}")
    return math.prod(found) * kind.itemsize
