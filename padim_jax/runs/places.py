"""Under which name the results of an image lie: a file each, none in the place of another."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

_LONGEST_NAME = 255  # bytes, of a file on the usual file systems


def common_folder(paths: Sequence[Path]) -> Path:
    """Deepest folder that holds all ``paths``; results are laid out below it as their images are."""
    return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))


def result_place(path: Path, root: Path, suffix: str = ".png") -> Path:
    """Relative place of what belongs to image ``path`` below ``root``: its own, with ``suffix`` added."""
    place = Path(os.path.abspath(path)).relative_to(root)
    return place.with_name(_file_name(place.name, suffix))


def result_places(images: Iterable[tuple[str, Path]], root: Path, suffix: str = ".png") -> dict[tuple[str, Path], Path]:
    """Places as :func:`result_place` has them, below a folder for each name, no two the same and none a folder's.

    Where one is taken, by an image before it or as a folder that another needs, ``~2``, ``~3`` … is added to the name:
    of ``a.png`` beside a folder ``a.png.png`` with images, the place is ``a.png~2.png``.
    """
    wishes = {(name, path): name / result_place(path, root, suffix) for name, path in images}
    taken = {folder for place in wishes.values() for folder in place.parents}
    places: dict[tuple[str, Path], Path] = {}
    for key, place in wishes.items():
        free, number = place, 1
        while free in taken:
            number += 1
            free = place.with_name(_file_name(f"{key[1].name}~{number}", suffix))
        taken.add(free)
        places[key] = free
    return places


def _file_name(name: str, suffix: str) -> str:
    if len(os.fsencode(name + suffix)) <= _LONGEST_NAME:
        return name + suffix
    return hashlib.sha256(os.fsencode(name)).hexdigest() + suffix
