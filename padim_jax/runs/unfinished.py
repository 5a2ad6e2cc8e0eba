"""Results as they come, kept beside those of an earlier run, so that a run that was stopped continues where it was.

While a run is under way its tables and folders lie in ``DIR/unfinished``. A row is added to a table once everything
else of its image is written, so the tables say what is done, whenever the process dies. At the end each takes the place
of what an earlier run left in ``DIR``, the scores last.
"""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from padim_jax.artifact.ownership import LOCK, check_claim, mark, remove
from padim_jax.runs.growing_table import GrowingTable
from padim_jax.runs.regions import COLUMNS as REGION_COLUMNS
from padim_jax.runs.regions import Region
from padim_jax.runs.rows import COLUMNS, Row
from padim_jax.runs.tables import table_line, write_table
from padim_jax.runs.watch import Interrupted
from weights_conversion.atomic import write_atomically

Lost = tuple[str, Path, str]  # name of the model, image, and why it has no score

UNFINISHED, SCORES, UNREADABLE, REGIONS = "unfinished", "scores.csv", "unreadable.csv", "regions.csv"
_RUN = "run.json"
_REASONS = ("path", "reason")
_OTHER = {"model": "another model", "options": "other options", "files": "other images"}
_EARLIER = COLUMNS[:4]  # of versions whose folders carry no mark
_OURS = {SCORES: (_EARLIER, COLUMNS), UNREADABLE: (_REASONS,), REGIONS: (REGION_COLUMNS,)}
_LEFTOVER = re.compile(r"\.(heatmaps|masks|maps)\.\d+")  # of killed runs of earlier versions


def check_results(out: Path, folders: Sequence[str], *, regions: bool = False) -> None:
    """Refuse a folder in which results would take the place of something that is not ours.

    Tables of versions that left no mark are known by their first line.

    Args:
      out: where results go; need not be there.
      folders: names of those that will be written in it.
      regions: whether a table of regions will be.

    Raises:
      NotOurs: naming what is not ours.
    """

    def earlier(path: Path) -> bool:
        headers = _OURS[path.name]
        lines = {table_line(columns) for columns in (*headers, *(("model", *columns) for columns in headers))}
        return path.is_file() and _first_line(path) in lines

    names = [name for name in _OURS if regions or name != REGIONS]
    misplaced = [name for name in names if (out / name).is_dir()]  # a folder where a table would go
    if regions and not earlier(out / REGIONS):  # results of earlier versions carry our mark, and may hold a user's own
        misplaced.append(REGIONS)
    check_claim(out, names, "score", folders=(*folders, UNFINISHED, *misplaced), earlier=earlier)


def remove_leftovers(out: Path) -> None:
    """Remove what killed runs of earlier versions left in ``out``, if it carries our mark."""
    for path in out.iterdir() if out.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            remove(path)


def identity(model: Sequence[Path], files: Sequence[tuple[str, Path]], options: Mapping[str, Any]) -> dict[str, str]:
    """What identifies a run: digests of its models' manifests, of its options, and of its files.

    Args:
      model: manifests of the models.
      files: to score, each with the name of its model; of each its path, size and time of change count.
      options: that the results depend on, as JSON has them.
    """
    versions = {name: version(name) for name in ("padim-jax", "jax", "jaxlib", "pillow")}
    return {
        "model": _digest([(str(path), hashlib.sha256(_content(path)).hexdigest()) for path in model]),
        "options": _digest([versions, options]),
        "files": _digest([(name, str(path), *_facts(path)) for name, path in files]),
    }


@dataclass(frozen=True)
class Position:
    """Where a run continues.

    Attributes:
      start: how many of its files are passed over.
      rows: results of the files after them that are there already.
      lost: files after them that are known to have no score.
    """

    start: int
    rows: int
    lost: Counter[Hashable]


def find_position(
    files: Sequence[Hashable], rows: Sequence[Hashable], lost: Sequence[Hashable], *, batch: int = 1, window: int = 1
) -> Position:
    """Where to continue, so that the files after it are computed together as they would have been.

    Args:
      files: of the run, in order.
      rows: those of them that have a result, in the same order.
      lost: those that are known to have none, in any order.
      batch: results that were computed together.
      window: files that were looked at together.
    """
    remaining, scored, kinds = Counter(lost), 0, list[bool]()
    for key in files:
        if scored < len(rows) and rows[scored] == key:
            scored += 1
            kinds.append(True)
        elif remaining[key]:
            remaining[key] -= 1
            kinds.append(False)
        else:
            break
    start = len(kinds)
    if start < len(files):
        start -= start % window
        spare = sum(kinds[:start]) % batch
        while spare:
            start -= 1
            spare -= kinds[start]
    passed = Counter(key for key, kind in zip(files[:start], kinds[:start], strict=True) if not kind)
    return Position(start, len(rows) - sum(kinds[:start]), Counter(lost) - passed)


class Unfinished:
    """The results of a run under way, those of an earlier one that was stopped among them.

    Args:
      out: folder of the results; marked as ours if there is nothing in it.
      run: what identifies this run, see :func:`identity`.
      folders: names of those that hold a file for each result.
      named: whether tables begin with a column ``model``; otherwise the names of models are empty.
      regions: whether there is a table of regions.

    Attributes:
      rows: results, each with the name of its model.
      lost: files without a score.
    """

    def __init__(
        self,
        out: Path,
        run: Mapping[str, str],
        folders: Sequence[str],
        *,
        named: bool = False,
        regions: bool = False,
    ) -> None:
        self.out, self.folder, self._folders, self._named = out, out / UNFINISHED, folders, named
        self._run = {**run, "folders": ",".join([*folders, REGIONS] if regions else folders)}
        earlier = self._read_run()
        self.other = sorted(key for key in run if earlier is not None and earlier.get(key) != run[key])
        if earlier != self._run:
            remove(self.folder)
            out.mkdir(parents=True, exist_ok=True)
            if all(path.name == LOCK for path in out.iterdir()):
                mark(out)
            for folder in (self.folder, *(self.folder / name for name in folders)):
                mark(folder)
            write_atomically(self.folder / _RUN, json.dumps(self._run).encode())
        first = ("model",) if named else ()
        self._scores = GrowingTable(self.folder / SCORES, (*first, *COLUMNS))
        self._unreadable = GrowingTable(self.folder / UNREADABLE, (*first, *_REASONS))
        self._regions = GrowingTable(self.folder / REGIONS, (*first, *REGION_COLUMNS)) if regions else None
        if self._regions is not None:
            self._regions.cut(_count_written(self._regions.rows, self._scores.rows, len(first) + 1))
        unnamed = () if named else ("",)
        scored, lost = ([[*unnamed, *cells] for cells in table.rows] for table in (self._scores, self._unreadable))
        self.rows = [(name, Row.read(cells)) for name, *cells in scored]
        self.lost: list[Lost] = [(name, Path(path), reason) for name, path, reason in lost]

    @property
    def done(self) -> int:
        """How many files have a result, or are known to have none."""
        return len(self.rows) + len(self.lost)

    def add(self, name: str, row: Row) -> None:
        """Record a result, once all else of it is written."""
        self._scores.add(self._cells(name, *row.cells))
        self.rows.append((name, row))

    def add_regions(self, name: str, path: Path, regions: Sequence[Region]) -> None:
        """Write the regions of a result, which is recorded after them."""
        if self._regions is not None:
            self._regions.add(*(self._cells(name, path, i, *region.cells) for i, region in enumerate(regions, 1)))

    def lose(self, name: str, path: Path, reason: str) -> None:
        """Record a file that has no score."""
        self._unreadable.add(self._cells(name, path, reason))
        self.lost.append((name, path, reason))

    def describe_start(self, total: int) -> str:
        """Where the run continues, or why it does not; empty for a new one."""
        if self.other:
            return f"{self.folder} has results of {' and '.join(_OTHER[key] for key in self.other)}; starting over"
        return f"going on: {self.done} of {total} images are done already, in {self.folder}" if self.done else ""

    def interrupted(self, total: int) -> Interrupted:
        """The error that ends a run which was asked to stop."""
        where = f"in {self.folder}; the same command goes on from there"
        return Interrupted(f"interrupted; {self.done} of {total} images are done, {where}")

    def finish(self) -> None:
        """Put all in place of an earlier run's results."""
        self._scores.sync()
        self.close()
        for name in self._folders:
            if (self.folder / name).exists():  # else a run that was killed in the midst of this has moved it
                remove(self.out / name)
                (self.folder / name).rename(self.out / name)
        if self.lost:
            rows = [self._cells(*entry) for entry in self.lost]
            write_table(self.out / UNREADABLE, self._unreadable.columns, rows)
        else:
            (self.out / UNREADABLE).unlink(missing_ok=True)  # an earlier run's
        if self._regions is not None:  # copied, so that a run that was killed in the midst of this still has them
            write_atomically(self.out / REGIONS, (self.folder / REGIONS).read_bytes())
        (self.folder / SCORES).replace(self.out / SCORES)
        remove(self.folder)

    def close(self) -> None:
        """Close the tables; what is in them stays."""
        self._scores.close()
        self._unreadable.close()
        if self._regions is not None:
            self._regions.close()

    def _cells(self, name: str, *cells: object) -> tuple[object, ...]:
        return (name, *cells) if self._named else cells

    def _read_run(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            run = json.loads((self.folder / _RUN).read_text(encoding="utf-8"))
            return run if isinstance(run, dict) else None
        return None


@contextmanager
def in_one_line(call: str, out: Path) -> Iterator[None]:
    """Turn a system error while results are written, such as a full disk, into one that says where and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{call}: can't write to {out} ({error.strerror or error}); what was scored is kept in {out / UNFINISHED}: "
            "make room, and the same command goes on from there"
        ) from error


def _count_written(regions: Sequence[Sequence[str]], scored: Sequence[Sequence[str]], key: int) -> int:
    """How many rows of regions, the first ones, are of images that are scored; of one more, only a part may be there.

    Args:
      regions: cells of the rows.
      scored: cells of the rows of scores, in the same order of images.
      key: how many cells say whose they are.
    """
    images = iter([cells[:key] for cells in scored])
    for count, cells in enumerate(regions):
        if cells[key] == "1" and cells[:key] not in images:  # looks only at those after the last image found
            return count
    return len(regions)


def _first_line(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.readline(1000)
    return b""


def _content(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _facts(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns
    return 0, 0


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
