"""What a table says of a scored image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_jax.config import PadimConfig
from padim_jax.runs.score import FITTED_ON, OTHER_SIZE, POOR_MATCH, ScoredImage, find_summit, verdict_of

COLUMNS = ("path", "score", "p_value", "verdict", "row", "column", "threshold", "heatmap", "note")
_BETWEEN = "; "  # notes of an image
_NAMED = 3  # images, of those that a remark is about


@dataclass(frozen=True)
class Row:
    """What a table says of a result.

    Attributes:
      path: of the image.
      score, p_value, anomalous: as :class:`padim_jax.runs.score.ScoredImage` has them.
      row, column: of the map's maximum, in pixels of the upright original; None where the method gives no map.
      threshold: scores above it are anomalous; None where the model is not calibrated.
      heatmap: file of the heat map, relative to the folder of the results; empty where there is none.
      notes: what a reader should know of this result.
      decided: as :class:`padim_jax.runs.score.ScoredImage` has it.
    """

    path: Path
    score: float
    p_value: float | None
    anomalous: bool | None
    row: int | None
    column: int | None
    threshold: float | None = None
    heatmap: str = ""
    notes: tuple[str, ...] = ()
    decided: str = ""

    @classmethod
    def of(cls, item: ScoredImage, config: PadimConfig, threshold: float | None, heatmap: str = "") -> "Row":
        """The row of one result of a model with ``config`` and ``threshold``."""
        summit = find_summit(item, config)
        numbers = item.score, item.p_value, item.anomalous
        return cls(item.path, *numbers, *summit, threshold, heatmap, item.notes, item.decided)

    @classmethod
    def read(cls, cells: Sequence[str]) -> "Row":
        """The row that has these :attr:`cells`; numbers have the digits that a table has of them."""
        path, score, p_value, verdict, row, column, threshold, heatmap, note = cells
        return cls(
            path=Path(path),
            score=float(score),
            p_value=float(p_value) if p_value else None,
            anomalous=verdict == "anomalous" if verdict in ("anomalous", "normal") else None,
            row=int(row) if row else None,
            column=int(column) if column else None,
            threshold=float(threshold) if threshold else None,
            heatmap=heatmap,
            notes=tuple(note.split(_BETWEEN)) if note else (),
            decided="" if verdict in ("anomalous", "normal") else verdict,
        )

    @property
    def verdict(self) -> str:
        """As of :class:`padim_jax.runs.score.ScoredImage`."""
        return self.decided or verdict_of(self.anomalous)

    @property
    def cells(self) -> tuple[object, ...]:
        """What stands in :data:`COLUMNS`; p-value, verdict and threshold are empty without a calibration."""
        p_value, threshold = ("" if number is None else f"{number:.7g}" for number in (self.p_value, self.threshold))
        summit = ("", "") if self.row is None else (self.row, self.column)
        place = (*summit, threshold, self.heatmap, _BETWEEN.join(self.notes))
        return self.path, f"{self.score:.7g}", p_value, self.verdict, *place


def remarks(rows: Sequence[Row]) -> list[str]:
    """Sentences on the images whose scores tell less than they seem to."""
    fitted_on = [row for row in rows if FITTED_ON in row.notes]
    others = [row for row in rows if any(OTHER_SIZE in note for note in row.notes)]
    poor = [row for row in rows if any(POOR_MATCH in note for note in row.notes)]
    aspect = " or aspect ratio" * any("aspect" in note for row in others for note in row.notes)
    called = "to be looked at" if any(row.decided for row in poor) else "anomalous"
    kinds = (
        (fitted_on, "were among those the model was fitted on", "they score lower than new images would"),
        (poor, f"do not lie as the good images do and are {called} for that", "are the parts there, and whole?"),
        (others, f"are of {OTHER_SIZE}{aspect}", "is it the same camera, and the same part of the picture?"),
    )
    return [
        f"{len(group)} of {len(rows)} images {fact} ({_names(group)}): {question}"
        for group, fact, question in kinds
        if group
    ]


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(str(row.path) for row in rows[:_NAMED]) + (" …" if len(rows) > _NAMED else "")
