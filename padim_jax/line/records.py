"""What is kept of an image on a line: the decision, and what a person said of it later."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from padim_jax.line.appearance import Appearance

Verdict = Literal["good", "look", "bad", "unreadable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
COLUMNS = (
    *("sequence", "id", "time", "source", "item", "verdict", "score", "p_value", "reason", "model"),
    *("model_digest", "image_digest", "regions", "corrected_to", "corrected_by", "corrected_at", "correction_note"),
)


@dataclass(frozen=True)
class Correction:
    """What a person says of a decision, which itself stays as it was.

    Attributes:
      number: of the correction, ascending in a store.
      decision: id of the decision.
      time: when, UTC in ISO 8601.
      who: the person.
      verdict: what it should have been.
      note: in the person's words.
      undone_at, undone_by: when it was undone and by whom; empty while it stands.
    """

    number: int
    decision: str
    time: str
    who: str
    verdict: Verdict
    note: str = ""
    undone_at: str = ""
    undone_by: str = ""


@dataclass(frozen=True)
class Decision:
    """What was decided on one image by one state of a model.

    Attributes:
      source: where the image came from: a folder, "-" for standard input, the name of a camera.
      item: the file within its source, or the frame.
      image_digest: the first 32 hexadecimal digits of SHA-256 of the image's bytes, as :class:`padim_jax.images.Batch`
        has them; empty where they could not be read.
      model: name of the model, that of its folder.
      model_digest: SHA-256 of the model's manifest, which names all its files with their digests.
      verdict: one of :data:`VERDICTS`.
      reason: why; of a good one, only what was noted of its file, such as that it holds several frames.
      score, p_value: as :class:`padim_jax.Scores` has them; None for a file that could not be read.
      regions: above the pixel threshold, each with left, top, width, height, area, peak, row, column and p_value in the
        image's own pixels; None where nobody looked for them.
      stamp: device, number, size and time of change of the file, by which it is known again without being read; empty
        for what is no file.
      appearance: what the image is like; None where it has no score, or was recorded by a version that did not note it.
      sequence: ascending in a store, in the order of decisions, whatever the clock says; 0 before it is recorded.
      time: when it was recorded, UTC in ISO 8601; empty before.
      correction: the one that stands; None where nobody has corrected it.
    """

    source: str
    item: str
    image_digest: str
    model: str
    model_digest: str
    verdict: Verdict
    reason: str = ""
    score: float | None = None
    p_value: float | None = None
    regions: tuple[Mapping[str, Any], ...] | None = None
    stamp: str = field(default="", compare=False)
    appearance: Appearance | None = None
    sequence: int = 0
    time: str = ""
    correction: Correction | None = None

    @property
    def id(self) -> str:
        """The same for the same image, source, item and model: 32 hexadecimal digits of SHA-256."""
        parts = self.source, self.item, self.image_digest, self.model_digest
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def record(self) -> dict[str, Any]:
        """Everything but stamp and appearance, as JSON has it; the keys are :data:`COLUMNS`."""
        own = {name: getattr(self, name) for name in COLUMNS[:12]}
        own["regions"] = None if self.regions is None else list(self.regions)
        found = self.correction
        corrected = ("",) * 4 if found is None else (found.verdict, found.who, found.time, found.note)
        return own | dict(zip(COLUMNS[13:], (text or None for text in corrected), strict=True))

    def cells(self) -> list[object]:
        """What stands in a table of :data:`COLUMNS`; the regions as JSON."""
        record = self.record()
        record["regions"] = None if self.regions is None else regions_text(self.regions)
        for name in ("score", "p_value"):
            record[name] = None if record[name] is None else f"{record[name]:.7g}"
        return [record[name] for name in COLUMNS]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a decision's score was and what its image is like, and of which decision it is.

    Attributes:
      sequence, id, time, source, model, model_digest, score, appearance: as :class:`Decision` has them.
    """

    sequence: int
    id: str
    time: str
    source: str
    model: str
    model_digest: str
    score: float | None
    appearance: Appearance | None = None


def regions_text(regions: tuple[Mapping[str, Any], ...]) -> str:
    """Regions as JSON on one line."""
    return json.dumps([dict(region) for region in regions], separators=(",", ":"))


def time_text(seconds: float) -> str:
    """Seconds since 1970 as UTC in ISO 8601, to milliseconds; the order of such texts is that of the times.

    >>> time_text(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> str:
    """A day or a time in ISO 8601, in local time where it names no zone, as :func:`time_text` has it.

    Raises:
      ValueError: something else.

    >>> parse_time("2026-01-02T03:04:05Z")
    '2026-01-02T03:04:05.000Z'
    """
    try:
        return time_text(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{text!r} is no day or time such as 2026-01-31 or 2026-01-31T13:45") from error
