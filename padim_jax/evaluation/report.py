"""A scored run as one HTML page: it opens from disk, asks no network for anything, and trusts no name in the run."""

import base64
import heapq
import importlib.resources
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Float

from padim_jax.baselines import METHODS
from padim_jax.evaluation.operating_points import remarks
from padim_jax.lazy import extra
from padim_jax.method.pictures import colours
from weights_conversion.atomic import write_atomically

FORMAT, SCHEMA = "padim_jax run", 2  # of run.json
_SCHEMAS = (1, 2)  # those that can be shown; the first has no thresholds from good images
RUN_FILE = "run.json"
_LIMIT = 14_000_000  # bytes of the page; mail and chat often refuse files of 15 MB or more
_POINTS = 400  # of a curve: a plot 400 pixels wide can't show more
_VIEWS = ("image", "overlay", "map", "mask")
_IMAGE_METRICS = ("auroc", "average_precision", "best_f1", "best_f1_threshold")
_PIXEL_METRICS = ("auroc", "average_precision", "pro")
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_HEAD = 12  # bytes that show a picture's format
_TITLE, _BEGINNING = b"<title>PaDiM report</title>", 4096  # what marks a page of padim, and in how many bytes
_ADVICE = "score the run again"


@dataclass(frozen=True)
class _Picture:
    """A checked picture of a run, not read yet."""

    path: Path
    mime: str
    size: int  # bytes of its data URI


def write_report(run: Path, target: Path) -> None:
    """Write the page of a scored run, in one step; equal runs give equal bytes.

    Pictures are inlined while the page stays within 14 MB: mistakes first, then the rest from both ends of the
    ranking inwards. The page says how many were left out.

    Args:
      run: the folder with ``run.json`` and the pictures it names; its strings are shown as text, whatever they hold.
      target: the HTML file to write.

    Raises:
      FileNotFoundError: ``run.json`` or a picture it names is missing.
      FileExistsError: ``target`` exists and is not a page that padim wrote.
      ValueError: ``run.json`` is damaged or of another format, or names something that is no picture inside ``run``.
    """
    record = _read(run)
    if target.exists() and not _is_page(target):
        raise FileExistsError(f"write_report: {target} was not written by padim; move it away or rename it")
    pictures = _find_pictures(run, record["pictures"], len(record["files"]["test"]))
    page = {key: value for key, value in record.items() if key != "pictures"}
    page |= _measure(record["files"]["test"])
    page["ramp"] = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in np.rint(colours(np.linspace(0, 1, 9))).astype(int)]
    template = importlib.resources.files("padim_jax.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    head, tail = template.split("@DATA@")
    free_bytes = _LIMIT - len(template.encode()) - len(_embed(page))
    sizes = {index: sum(picture.size for picture in views.values()) for index, views in pictures.items()}
    inlined = _choose(record, sizes, free_bytes)
    page["left_out"] = len(pictures) - len(inlined)
    page["pictures"] = {
        str(index): {view: _data_uri(picture) for view, picture in pictures[index].items()} for index in sorted(inlined)
    }
    write_atomically(target, f"{head}{_embed(page)}{tail}".encode())


def _is_page(path: Path) -> bool:
    """Whether some version of this module wrote a file."""
    with path.open("rb") as stream:
        return _TITLE in stream.read(_BEGINNING)


def _read(run: Path) -> dict[str, Any]:
    """What ``run.json`` holds, reduced to the keys of the schema, each checked."""
    path = run / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"write_report: no run.json in {run}; wanted the folder of a scored run")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"write_report: {path} is not JSON ({error}); {_ADVICE}") from error
    kind = record.get("format") if isinstance(record, dict) else None
    if kind != FORMAT:
        raise ValueError(f"write_report: {path} has format {kind!r}, wanted {FORMAT!r}; name the folder of a run")
    if record.get("schema") not in _SCHEMAS:
        raise ValueError(
            f"write_report: {path} has schema {record.get('schema')!r}, this version reads 1 to {SCHEMA}; "
            f"{_ADVICE}, or update padim-jax"
        )
    try:
        return _check_record(record)
    except _BadValue as error:
        raise ValueError(f"write_report: {path}: {error}; {_ADVICE}") from error


class _BadValue(ValueError):
    """A value of run.json that the schema does not allow."""

    def __init__(self, where: str, wanted: str, value: object) -> None:
        text = repr(value)
        super().__init__(f"{where} is {text if len(text) <= 80 else f'{text[:80]}…'}, wanted {wanted}")


def _check_record(record: dict[str, Any]) -> dict[str, Any]:
    page: dict[str, Any] = {key: _text(record.get(key), key) for key in ("preset", "category", "data")}
    page["method"] = _text(record.get("method", "padim"), "method")
    page["about"] = _about(page["method"])
    page |= {key: record.get(key) for key in ("seed", "protocol", "settings", "versions", "seconds")}
    metrics = _mapping(record.get("metrics"), "metrics")
    page["metrics"] = {
        "image": _numbers(metrics.get("image"), "metrics.image", _IMAGE_METRICS),
        "pixel": None if metrics.get("pixel") is None else _numbers(metrics["pixel"], "metrics.pixel", _PIXEL_METRICS),
    }
    if metrics.get("calibrated") is not None:
        shares = _mapping(metrics["calibrated"], "metrics.calibrated")
        page["metrics"]["calibrated"] = _numbers(shares, "metrics.calibrated", tuple(shares))
    page["calibration"] = _calibration(record.get("calibration"))
    page["published"] = {}
    for name, reference in _mapping(record.get("published"), "published").items():
        where = f"published.{name}"
        figure = _mapping(reference, where)
        page["published"][name] = {
            "value": _number(figure.get("value"), f"{where}.value"),
            "source": _text(figure.get("source"), f"{where}.source"),
        }
    try:
        json.dumps(page, allow_nan=False)
    except ValueError as error:
        raise _BadValue("a value of settings, versions, seconds or metrics", "finite numbers", str(error)) from error

    scale = record.get("colour_scale")
    if not isinstance(scale, list) or len(scale) != 2:
        raise _BadValue("colour_scale", "the distances [low, high]", scale)
    page["colour_scale"] = [_number(value, f"colour_scale[{i}]") for i, value in enumerate(scale)]

    files = _mapping(record.get("files"), "files")
    fit_names = [_text(name, f"files.fit[{i}]") for i, name in enumerate(_list(files.get("fit"), "files.fit"))]
    tests = [_test(item, f"files.test[{i}]") for i, item in enumerate(_list(files.get("test"), "files.test"))]
    if not tests:
        raise _BadValue("files.test", "at least one scored image", tests)
    page["files"] = {"fit": fit_names, "test": tests}
    page["pictures"] = _list(record.get("pictures"), "pictures")
    return page


def _about(method: str) -> str | None:
    """What a reader should know of a method that PaDiM is compared with; None for PaDiM, which the page explains."""
    if method not in METHODS:
        return None
    found = METHODS[method]
    return (
        f"{method} ({found.source}): {found.about}. A score is in units of the method, and comparable only within "
        "one model. An image is flagged when its score lies above a threshold from good images, or reaches one that is "
        "set by the slider. The good images were dealt into folds, and each fold was scored by a model of the others."
    )


def _calibration(value: object) -> dict[str, Any]:
    """Thresholds from good images, the strictest first, with remarks."""
    if value is None:
        return {"images": None, "thresholds": [], "remarks": remarks(None)}
    stored = _mapping(value, "calibration")
    impossible = stored.get("impossible")
    calibration: dict[str, Any] = {
        "images": int(_number(stored.get("images"), "calibration.images")),
        "method": _text(stored.get("method", "leave-one-out"), "calibration.method"),
        "impossible": None if impossible is None else _text(impossible, "calibration.impossible"),
        "thresholds": [],
    }
    for i, item in enumerate(_list(stored.get("thresholds"), "calibration.thresholds")):
        where = f"calibration.thresholds[{i}]"
        entry = _mapping(item, where)
        keys = ("false_alarm_rate", "threshold", "expected_false_alarms", "images_wanted")
        threshold = {key: _number(entry.get(key), f"{where}.{key}") for key in keys}
        threshold["images_wanted"] = int(threshold["images_wanted"])
        # the page flags scores that reach a threshold
        threshold["flagged_from"] = math.nextafter(threshold["threshold"], math.inf)
        calibration["thresholds"].append(threshold)
    return calibration | {"remarks": remarks(calibration)}


def _test(item: object, where: str) -> dict[str, Any]:
    entry = _mapping(item, where)
    label = entry.get("label")
    if isinstance(label, bool) or label not in (0, 1):
        raise _BadValue(f"{where}.label", "0 (good) or 1 (defective)", label)
    return {
        "file": _text(entry.get("file"), f"{where}.file"),
        "label": label,
        "defect_type": _text(entry.get("defect_type"), f"{where}.defect_type"),
        "has_mask": bool(entry.get("has_mask")),
        "score": _number(entry.get("score"), f"{where}.score"),
    }


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _BadValue(where, "a text", value)
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _BadValue(where, "a list", value)
    return value


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _BadValue(where, "an object", value)
    return value


def _numbers(value: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A mapping whose ``keys`` hold numbers or null; other keys are only shown."""
    values = _mapping(value, where)
    for key in keys:
        if values.get(key) is not None:
            _number(values[key], f"{where}.{key}")
    return values


def _number(value: object, where: str) -> float:
    largest = sys.float_info.max  # a comparison, as isfinite() fails on integers too long for a float
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise _BadValue(where, "a finite number", value)
    return float(value)


def _find_pictures(run: Path, entries: list[Any], n_tests: int) -> dict[int, dict[str, _Picture]]:
    """Checked pictures by the test image's index, then by view."""
    pictures: dict[int, dict[str, _Picture]] = {}
    try:
        for i, item in enumerate(entries):
            entry = _mapping(item, f"pictures[{i}]")
            index = entry.get("test")
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_tests or index in pictures:
                raise _BadValue(f"pictures[{i}].test", f"another index from 0 to {n_tests - 1}", index)
            pictures[index] = {
                view: _picture(run, entry.get(view), f"pictures[{i}].{view}")
                for view in _VIEWS
                if entry.get(view) is not None or view == "image" or (view != "mask" and view not in entry)
            }
    except _BadValue as error:
        raise ValueError(f"write_report: {run / 'run.json'}: {error}; {_ADVICE}") from error
    return pictures


def _picture(run: Path, value: object, where: str) -> _Picture:
    name = _text(value, where)
    pure = PureWindowsPath(name)  # its rules cover POSIX's too: "\" separates names, "C:" is a root
    path = run / name
    try:
        inside = bool(name) and not pure.anchor and ".." not in pure.parts
        inside = inside and path.resolve().is_relative_to(run.resolve())
        exists = inside and path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a null byte, or a loop of links
        inside, exists = True, False
    if not inside:
        raise _BadValue(where, "a path inside the run's folder", name)
    if not exists:
        raise FileNotFoundError(f"write_report: {run / 'run.json'}: {where} names {name!r}, not there; {_ADVICE}")
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    mime = next((mime for start, mime in _SIGNATURES.items() if head.startswith(start)), None)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        mime = "image/webp"
    if mime is None:
        raise _BadValue(where, "a PNG, JPEG or WebP picture", name)
    return _Picture(path, mime, len(f'"{where}":"data:{mime};base64,",') + 4 * math.ceil(path.stat().st_size / 3))


def _data_uri(picture: _Picture) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.path.read_bytes()).decode('ascii')}"


def _choose(record: dict[str, Any], sizes: dict[int, int], free_bytes: int) -> list[int]:
    """Test images whose pictures fit into ``free_bytes``, the most telling ones first.

    Mistakes at the page's first threshold come first, beginning with the grossest; then the highest and the lowest
    scores, and inwards from there: a correctly judged image in the middle of the ranking tells least.
    """
    thresholds = record["calibration"]["thresholds"]
    oracle = record["metrics"]["image"].get("best_f1_threshold")
    tests, threshold = record["files"]["test"], thresholds[0]["flagged_from"] if thresholds else oracle
    rank = {index: place for place, index in enumerate(sorted(sizes, key=lambda i: (tests[i]["score"], i)))}

    def dullness(index: int) -> tuple[bool, float, int]:
        score, label = tests[index]["score"], tests[index]["label"]
        if threshold is not None and (score >= threshold) != bool(label):
            return False, -abs(score - threshold), index
        return True, -abs(rank[index] - (len(rank) - 1) / 2), index

    chosen = []
    for index in sorted(sizes, key=dullness):
        if sizes[index] <= free_bytes:
            chosen.append(index)
            free_bytes -= sizes[index]
    return chosen


def _measure(tests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Curves over all test images, and each defect type's separation from the good images; None where undefined."""
    with extra("evaluate"):
        from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve  # slow to import

    labels = np.array([test["label"] for test in tests])
    scores = np.array([test["score"] for test in tests])
    types = np.array([test["defect_type"] for test in tests], object)
    roc = precision_recall = None
    if 0 < labels.sum() < len(labels):
        false_rates, true_rates, _ = roc_curve(labels, scores)
        roc = _thin(np.stack([false_rates, true_rates], axis=1)).round(5).tolist()
        precision, recall, _ = precision_recall_curve(labels, scores)
        # average precision is the area under steps, not under slanted lines
        corners = np.stack([np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1]], axis=1)
        precision_recall = _thin(corners).round(5).tolist()

    good = scores[labels == 0]
    by_type = []
    for name in sorted(set(types[labels == 1])):
        defective = scores[(labels == 1) & (types == name)]
        is_defective = np.arange(len(good) + len(defective)) >= len(good)
        auroc = float(roc_auc_score(is_defective, np.concatenate([good, defective]))) if len(good) else None
        by_type.append({"type": name, "images": len(defective), "auroc": auroc, "median": float(np.median(defective))})
    return {"curves": {"roc": roc, "precision_recall": precision_recall}, "types": by_type}


def _thin(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "kept 2"]:
    """The polyline through at most 400 of its points: the ends, then always the point farthest from the line so far."""
    heap: list[tuple[float, int, int, int]] = []

    def split(start: int, end: int) -> None:
        if end - start < 2:
            return
        chord, offsets = points[end] - points[start], points[start + 1 : end] - points[start]
        along = np.clip(offsets @ chord / max(chord @ chord, np.finfo(float).tiny), 0, 1)
        distances = np.linalg.norm(offsets - along[:, None] * chord, axis=1)
        farthest = int(distances.argmax())
        if distances[farthest] > 1e-9:
            heapq.heappush(heap, (-distances[farthest], start, start + 1 + farthest, end))

    indices = [0, len(points) - 1]
    split(*indices)
    while heap and len(indices) < _POINTS:
        _, start, middle, end = heapq.heappop(heap)
        indices.append(middle)
        split(start, middle)
        split(middle, end)
    return points[sorted(indices)]


def _embed(value: object) -> str:
    """JSON in ASCII that can neither end the script element around it nor open a comment or an entity."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
