"""Tables of many models in CSV: which good images each is fitted on, and which images each is to score."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_LONGEST = 200  # bytes of a folder's name, which gets a few more while its model is being fitted
LIST = "models.csv"  # of a run's models, in their folder


@dataclass(frozen=True)
class Job:
    """A model to fit.

    Attributes:
      name: its folder, relative to that of all models; may have several parts, as ``bracket/camera-2``.
      good: folder of good images.
      calibration: folder of others to calibrate on; None for the good ones, each left out in turn.
      roi: mask file, the region of interest; None for everywhere.
    """

    name: str
    good: Path
    calibration: Path | None = None
    roi: Path | None = None


@dataclass(frozen=True)
class Route:
    """Images and the model that is to score them.

    Attributes:
      name: of the model, as in :class:`Job`.
      path: image file, or a folder of them.
    """

    name: str
    path: Path


def read_jobs(path: Path) -> list[Job]:
    """Models to fit, from columns ``model,good`` and, where wanted, ``calibration,roi``, which may be empty.

    Paths are relative to the table's folder.

    Raises:
      ValueError: other columns, a line that is incomplete, a name that is no relative path, the same name twice, or one
        inside another; says where.
      OSError: it can't be read.
    """
    jobs: dict[str, Job] = {}
    for line, row in _rows(path, ("model", "good"), ("calibration", "roi")):
        name = _name(path, line, row["model"])
        if name in jobs:
            raise ValueError(f"{path}, line {line}: model {name!r} is there twice; names must differ")
        paths = {key: path.parent / value for key, value in row.items() if key != "model" and value}
        jobs[name] = Job(name, **paths)
    for name in jobs:
        outer_name = next((str(outer) for outer in PurePosixPath(name).parents if str(outer) in jobs), None)
        if outer_name is not None:
            raise ValueError(f"{path}: model {name!r} would lie inside the folder of model {outer_name!r}; rename one")
    return list(jobs.values())


def read_routes(path: Path) -> list[Route]:
    """What to score by which model, from columns ``model,path``; paths are relative to the table's folder.

    Raises:
      ValueError, OSError: as :func:`read_jobs`; a name may be there many times.
    """
    rows = _rows(path, ("model", "path"), ())
    return [Route(_name(path, line, row["model"]), path.parent / row["path"]) for line, row in rows]


def _rows(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column with their lines; none of ``needed`` is empty."""
    columns_text = f"{','.join(needed)}" + (f" and, if you like, {','.join(optional)}" if optional else "")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            columns = [column.strip() for column in next(reader, [])]
            unknown = [column for column in columns if column not in (*needed, *optional)]
            missing = [column for column in needed if column not in columns]
            if unknown or missing or len(set(columns)) != len(columns):
                raise ValueError(f"{path}: its first line is {','.join(columns)!r}, wanted the columns {columns_text}")
            count = 0
            for cells in reader:
                if not cells:
                    continue
                row = dict(zip(columns, cells, strict=False))
                if len(cells) != len(columns) or not all(row[column] for column in needed):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {','.join(cells)!r}, wanted {len(columns)} values, "
                        f"{' and '.join(needed)} not empty"
                    )
                count += 1
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV table in UTF-8: {error}") from error
    if count == 0:
        raise ValueError(f"{path} has no lines after the first, {','.join(columns)!r}")


def _name(path: Path, line: int, name: str) -> str:
    parts = name.split("/")
    if parts[0] == LIST:
        raise ValueError(f"{path}, line {line}: model {name!r} would lie where the list of models does; rename it")
    if not all(part and part[0] != "." and part.isprintable() and "\\" not in part for part in parts):
        raise ValueError(
            f"{path}, line {line}: model {name!r}, wanted a name, or names joined by /, that begin with no dot: each "
            "is a folder"
        )
    if long := [part for part in parts if len(os.fsencode(part)) > _LONGEST]:
        raise ValueError(
            f"{path}, line {line}: model {name[:40]!r}… has a name of {len(os.fsencode(long[0]))} bytes, wanted "
            f"at most {_LONGEST}: each is a folder"
        )
    return name
