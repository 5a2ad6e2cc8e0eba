"""Tables of evaluated runs: means over seeds and categories, ``results.json`` and ``results.csv``."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from padim_jax.artifact import ownership
from padim_jax.evaluation.operating_points import RATES, at_rate, remarks
from padim_jax.evaluation.published import Published, published
from padim_jax.runs.tables import write_table
from weights_conversion.atomic import write_atomically

METRICS: Mapping[str, tuple[str, str]] = {  # the keys of each in run.json
    "image_auroc": ("image", "auroc"),
    "image_ap": ("image", "average_precision"),
    "image_f1_oracle": ("image", "best_f1"),
    "pixel_auroc": ("pixel", "auroc"),
    "pixel_ap": ("pixel", "average_precision"),
    "pro": ("pixel", "pro"),
    **{  # at thresholds from good training images alone
        at_rate(name, rate): ("calibrated", at_rate(name, rate))
        for rate in RATES
        for name in ("recall", "false_alarms")
    },
}
COSTS = ("fit_seconds", "score_seconds", "model_gb")  # of a run, see costs_of
_FORMAT = "padim_jax results"  # of results.json
_FILES = ("results.json", "results.csv", "files.csv")
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")  # of MVTec AD, as the paper groups them
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
MEANS = {"textures": TEXTURES, "objects": OBJECTS}  # "mean" is over all categories


@dataclass(frozen=True)
class Summary:
    """A line of the table.

    Attributes:
      data: name of the data set's builder.
      protocol: "standard" or "rotated".
      preset: the preset's name, or that of another method with its settings.
      category: the category's name; "textures", "objects" and "mean" weigh several categories alike.
      seeds: the seeds of the runs behind each value.
      mean: the mean of each metric over seeds; None unless all runs define it.
      spread: the standard deviation over seeds (divisor n - 1); None with one seed.
      published: the published figures, by metric.
      settings: the values of the settings that vary among the runs, by name.
      method: "padim", or the other method's name.
      note: what a reader must know of the line, such as why nothing was measured.
    """

    data: str
    protocol: str
    preset: str
    category: str
    seeds: tuple[int, ...]
    mean: dict[str, float | None]
    spread: dict[str, float | None]
    published: dict[str, Published]
    settings: dict[str, Any] = field(default_factory=dict)
    method: str = "padim"
    note: str = ""


def claim(out: Path, tables: Iterable[str] = ()) -> None:
    """Make sure that results and ``tables`` replace only padim's files in ``out``; mark a new folder as padim's.

    Folders of versions that left no mark are recognised by their ``results.json``.

    Raises:
      NotOurs: the folder holds files of these names that padim did not write.
    """
    ownership.claim(out, (*_FILES, *tables), "evaluate", earlier=lambda path: _is_results(out / _FILES[0]))


def metrics_of(run: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a run by their names in tables; None where undefined, or where an earlier version lacked them."""
    metrics = run["metrics"]
    return {name: (metrics.get(level) or {}).get(key) for name, (level, key) in METRICS.items()}


def costs_of(run: Mapping[str, Any]) -> dict[str, float | None]:
    """What a run cost, by the names of :data:`COSTS`; None where an earlier version did not record it.

    ``fit_seconds`` and ``score_seconds`` are of one image, from its file on. ``fit_seconds`` includes compiling, which
    ``score_seconds`` does not. ``model_gb`` is 10⁹ bytes of the fitted arrays and the network's
    weights, all of which a score needs.
    """
    network, model = run.get("network_bytes"), run.get("model_bytes")
    fitted, stages = len(run["files"]["fit"]), run["seconds"]
    return {
        "fit_seconds": stages["fit"] / fitted if fitted else None,
        "score_seconds": run.get("score_seconds"),
        "model_gb": None if network is None or model is None else (network + model) / 1e9,
    }


def summarise(runs: Iterable[Mapping[str, Any]], varying: Sequence[str] = ()) -> list[Summary]:
    """A line for every preset and settings on every category, and after several categories the lines of their means.

    The runs are those of one evaluation: alike but for data, protocol, preset, category, seed and the settings named in
    ``varying``. A group has a mean when all its categories are there; a seed counts only if every category has it.
    """
    groups: dict[tuple[str, ...], dict[str, dict[int, Mapping[str, Any]]]] = {}
    for run in runs:
        settings = [setting_text(value) for value in _settings(run, varying).values()]
        key = run["data"], run["protocol"]["name"], run["preset"], *settings
        groups.setdefault(key, {}).setdefault(run["category"], {})[run["seed"]] = run
    lines = []
    for categories in groups.values():
        lines += [_line(name, [seeds], varying) for name, seeds in categories.items()]
        single = [name for name in categories if name != "all"]  # "all" holds the others' images
        if len(single) > 1:
            groups_of_paper = [(name, group) for name, group in MEANS.items() if set(group) <= set(single)]
            for name, group in [*groups_of_paper, ("mean", single)]:
                lines.append(_line(name, [categories[part] for part in group], varying))
    return lines


def write_results(out: Path, runs: Sequence[Mapping[str, Any]], varying: Sequence[str] = ()) -> list[Summary]:
    """Write ``results.json``, ``results.csv`` and ``files.csv`` of ``runs`` to ``out``; returns the table's lines."""
    lines = summarise(runs, varying)
    content = {
        "format": _FORMAT,
        "schema": 1,
        "summary": [asdict(line) for line in lines],
        "runs": [{key: value for key, value in run.items() if key != "pictures"} for run in runs],
    }
    write_atomically(out / _FILES[0], json.dumps(content, indent=1).encode())
    for name, rows in zip(_FILES[1:], (_run_rows(runs), _file_rows(runs, varying)), strict=True):
        rows = list(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_table(out / name, columns, [[row.get(column, "") for column in columns] for row in rows])
    return lines


def _is_results(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def _settings(run: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings of a run that all its members share."""
    return {name: run["settings"]["members"][0][name] for name in names}


def _line(category: str, parts: Sequence[Mapping[int, Mapping[str, Any]]], varying: Sequence[str]) -> Summary:
    """A line of one category's runs by seed, or of the mean of several."""
    seeds = tuple(sorted(set.intersection(*(set(part) for part in parts))))
    mean: dict[str, float | None] = {}
    spread: dict[str, float | None] = {}
    for name in METRICS:
        values = [_mean([metrics_of(part[seed])[name] for part in parts]) for seed in seeds]
        mean[name] = _mean(values)
        defined = [value for value in values if value is not None]
        spread[name] = statistics.stdev(defined) if len(values) > 1 and len(defined) == len(values) else None
    runs = [run for part in parts for run in part.values()]
    data, protocol, preset = runs[0]["data"], runs[0]["protocol"]["name"], runs[0]["preset"]
    # a published mean is over all categories
    comparable = category != "mean" or {run["category"] for run in runs} == {*TEXTURES, *OBJECTS}
    references = {}
    if comparable and all(run["as_published"] for run in runs):
        backbone = runs[0].get("settings", {}).get("backbone")
        known = published(preset, data, protocol, category, backbone)
        references = {name: figure for name, figure in known.items() if name in METRICS}  # costs are not of this table
    settings = _settings(runs[0], varying)
    method = runs[0].get("method", "padim")
    return Summary(data, protocol, preset, category, seeds, mean, spread, references, settings, method)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if values and len(defined) == len(values) else None


def _run_rows(runs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each run: its names, metrics, settings and versions."""
    for run in runs:
        row = _names(run) | {f"protocol.{key}": value for key, value in run["protocol"].items()}
        row |= metrics_of(run) | _threshold_cells(run.get("calibration"))
        row |= {f"published.{name}": reference["value"] for name, reference in run["published"].items()}
        row |= {"fit_images": len(run["files"]["fit"]), "test_images": len(run["files"]["test"])}
        row |= {f"seconds.{key}": round(value, 2) for key, value in run["seconds"].items()}
        row |= {"score_seconds": run.get("score_seconds"), "model_bytes": run.get("model_bytes")}
        row |= {"network_bytes": run.get("network_bytes"), "method": run.get("method", "padim")}
        settings = run["settings"]
        row |= {"backbone": settings["backbone"], "weights_digest": settings["weights_digest"]}
        members = run["chosen"]["members"] if "chosen" in run else settings["members"]
        for key in members[0]:  # members of one preset differ in their taps
            values = [setting_text(member[key]) for member in members]
            row[f"config.{key}"] = values[0] if len(set(values)) == 1 else " | ".join(values)
        yield row | {f"version.{key}": value for key, value in run["versions"].items()}


def _threshold_cells(calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """The thresholds from good training images, the false alarms to expect at them, and remarks."""
    thresholds = {entry["false_alarm_rate"]: entry for entry in (calibration or {}).get("thresholds", ())}
    cells = {"calibration_images": calibration["images"] if calibration else None}
    for rate in RATES:
        for name in ("threshold", "expected_false_alarms"):
            cells[at_rate(name, rate)] = thresholds.get(rate, {}).get(name)
    return cells | {"calibration_note": "; ".join(remarks(calibration))}


def _file_rows(runs: Iterable[Mapping[str, Any]], varying: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each image of each run, with its role, and the settings in which runs differ."""
    for run in runs:
        names = _names(run) | {"protocol": run["protocol"]["name"]}
        names |= {f"config.{name}": setting_text(value) for name, value in _settings(run, varying).items()}
        for name in run["files"]["fit"]:
            yield names | {"role": "fit", "file": name, "label": 0}
        for row in run["files"]["test"]:
            placement = row.get("placement", {})
            yield names | {"role": "test"} | {key: row[key] for key in row if key != "placement"} | placement


def setting_text(value: Any) -> str:
    """A setting as a cell: a text as it is, an empty cell for None, JSON otherwise."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _names(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("data", "category", "preset", "seed")}
