"""``padim inspect`` of a folder of images."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from padim_jax.artifact import Updatable
from padim_jax.backbones import load_backbone
from padim_jax.commands.calibrate import images_of, load_any
from padim_jax.commands.terminal import printable, progress_bar
from padim_jax.images import UnreadableImage, find_value_range
from padim_jax.images.folder import FoundImages, describe
from padim_jax.images.frames import frames_in_words
from padim_jax.images.survey import Depth, ImageFacts, find_duplicates, find_equal_pixels, find_oddities, survey
from padim_jax.inspection.positions import OUTLIER_RANGES, outlier_limit, rank_p_values
from padim_jax.method.fitting import finalize
from padim_jax.method.records import Padim
from padim_jax.pictures import picture
from padim_jax.presets import preset
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_moments
from padim_jax.runs.left_out import left_out_files
from padim_jax.runs.score import ScoredImage, find_summit, score_files
from padim_jax.runs.tables import write_table
from padim_jax.runs.watch import Watch

_PRESET = "lite0"
_SHOWN = 10  # files on a line; --json and --out have all
_HIGHEST = 5  # scores shown, whether they stand out or not
_PICTURED = 12  # images of the highest scores


def inspect_folder(
    folder: Path, found: FoundImages, model: Path | None, quick: bool, out: Path | None, batch_size: int
) -> dict[str, Any]:
    """Everything there is to say of a folder of images, as JSON has it; writes tables and pictures to ``out``."""
    stored = None if model is None else load_any(model)
    known = None if stored is None else images_of(stored)
    if stored is not None and not known:
        raise click.UsageError(f"{model} does not list the images it was fitted on; leave --model out")
    unreadable: list[UnreadableImage] = []
    with progress_bar("look", len(found.paths)) as advance:
        images = list(survey(found.paths, unreadable.append, decode=not quick, advance=advance))
    record: dict[str, Any] = {
        "folder": str(folder),
        "decoded": not quick,
        "counts": {
            "images": len(images),
            "unreadable": len(unreadable),
            "ignored": sum(found.ignored.values()),
            **{name: dict(_counted(images, value)) for name, value in _PROPERTIES.items()},
        },
        "ignored": dict(found.ignored),
        "unreadable": [{"path": str(error.path), "reason": error.reason} for error in unreadable],
        "duplicates": _names(find_duplicates(images)),
        "equal_pixels": _names(find_equal_pixels(images)),
        "oddities": [
            {"what": odd.what, "common": odd.common, "images": {str(path): value for path, value in odd.paths.items()}}
            for odd in find_oddities(images)
        ],
        "leave_one_out": None if quick else _scores(images, stored, known, str(model), out, batch_size),
        "images": [{**asdict(one), "path": str(one.path)} for one in images],
    }
    if out is not None:
        _write_table(out / "images.csv", record)
    return record


_PROPERTIES: Mapping[str, Callable[[ImageFacts], str]] = {
    "sizes": lambda one: "×".join(map(str, one.size)),
    "channels": lambda one: one.mode,
    "bits a channel": lambda one: str(one.bits),
    "file formats": lambda one: one.format,
}


def _counted(images: Sequence[ImageFacts], value: Callable[[ImageFacts], str]) -> list[tuple[str, int]]:
    return Counter(map(value, images)).most_common()


def _names(groups: Sequence[Sequence[Path]]) -> list[list[str]]:
    return [[str(path) for path in group] for group in groups]


@dataclass(frozen=True)
class _Scored:
    """What is kept of every image; the pictures only of those of the highest scores."""

    item: ScoredImage
    row: int
    column: int
    left_out: bool


def _scores(
    images: Sequence[ImageFacts],
    stored: Updatable | Padim | None,
    known: Mapping[str, float] | None,
    name: str,
    out: Path | None,
    batch_size: int,
) -> dict[str, Any]:
    """Scores of all images a model takes, and which of them stand out."""
    refused: dict[str, str] = {}
    paths = [one.path for one in images]
    if isinstance(stored, Updatable) and known is not None:
        fitted = stored.model()
    else:
        of_depth: dict[Depth | None, list[Path]] = {}
        for one in images:
            of_depth.setdefault(one.depth, []).append(one.path)
        paths = max(of_depth.values(), key=len, default=[])
        most = set(paths)
        refused = {str(one.path): "another depth than most images" for one in images if one.path not in most}
        fitted, known = _fitted_here(paths, batch_size)
        name = f"{_PRESET}, fitted here"
    counts = f"{0 if fitted is None else int(fitted.count)} images"
    if fitted is None or known is None or fitted.count < 3:
        reason = f"the model is of {counts}, wanted 3 or more" + ("" if paths else "; no image can be read")
        if stored is None and paths:
            reason += (
                " that the preset takes, 224 pixels or more each way (padim fit --crop-size, then --model, for smaller)"
            )
        return {"model": name, "not_done": reason, "not_scored": refused, "images": []}
    digests = {one.path: one.digest for one in images}
    mine = [path for path in paths if digests[path] in known]
    others = [path for path in paths if digests[path] not in known]

    def refuse(error: UnreadableImage) -> None:
        refused[str(error.path)] = error.reason

    def scored() -> Iterator[tuple[ScoredImage, bool]]:
        options: dict[str, Any] = {"batch_size": batch_size, "unreadable": refuse, "advance": advance}
        for item in left_out_files(fitted, mine, known, **options) if mine else ():
            yield item, True
        for item in score_files(replace(fitted, calibration=None), others, note=_pass, **options) if others else ():
            yield item, False

    with progress_bar("score", len(paths)) as advance:
        done = _highest_pictured(scored(), fitted)
    if not done:
        return {"model": name, "not_done": "the model takes none of the images", "not_scored": refused, "images": []}
    values = [one.item.score for one in done]
    limit, p_values = outlier_limit(values), rank_p_values(values)
    rows = [
        {
            "path": str(one.item.path),
            "score": one.item.score,
            "p_value": float(p),
            "row": one.row,
            "column": one.column,
            "left_out": one.left_out,
            "stands_out": one.item.score > limit,
        }
        for one, p in zip(done, p_values, strict=True)
    ]
    if out is not None:
        _write_suspects(out / "suspects.png", done, limit)
    rows.sort(key=lambda row: -row["score"])
    return {
        "model": name,
        "median": float(np.median(values)),
        "limit": limit,
        "rule": f"log score above the upper quartile by {OUTLIER_RANGES:g} interquartile ranges",
        "not_scored": refused,
        "images": rows,
    }


def _fitted_here(paths: Sequence[Path], batch_size: int) -> tuple[Padim | None, Mapping[str, float]]:
    """The default preset on the files that it takes; None where they are fewer than two."""
    chosen = preset(_PRESET)
    config = replace(chosen.members[0], value_range=find_value_range(paths)) if paths else chosen.members[0]
    network = load_backbone(chosen.backbone)
    watch = Watch(progress_bar, note=_pass, unreadable=_pass_over)
    fold = fit_moments(OneDevice(network), paths, config, batch_size, watch)
    if fold.state.count < 2:
        return None, {}
    return finalize(network, fold.state, donate=True), fold.images


def _pass(path: Path, text: str) -> None:
    """The survey has told it."""


def _pass_over(error: UnreadableImage) -> None:
    """Scoring tells which images the model does not take."""


def _highest_pictured(scored: Iterable[tuple[ScoredImage, bool]], fitted: Padim) -> list[_Scored]:
    """Everything that is to be kept of the results, in order."""
    done: list[_Scored] = []
    pictured: list[int] = []
    nothing = {"image": np.zeros((0, 0, 3), np.uint8), "anomaly_map": np.zeros((0, 0), np.float32)}
    for item, left_out in scored:
        # copies, for a view would keep its whole batch in memory
        own = replace(item, image=item.image.copy(), anomaly_map=item.anomaly_map.copy())
        pictured.append(len(done))
        done.append(_Scored(own, *find_summit(item, fitted.config), left_out))
        if len(pictured) > _PICTURED:
            lowest = min(pictured, key=lambda index: done[index].item.score)
            pictured.remove(lowest)
            done[lowest] = replace(done[lowest], item=replace(done[lowest].item, **nothing))
    return done


def _write_suspects(path: Path, done: Sequence[_Scored], limit: float) -> None:
    """The images of the highest scores with their maps, below each other; in colour from the median to the limit."""
    highest = sorted((one for one in done if one.item.image.size), key=lambda one: -one.item.score)
    scale = float(np.median([one.item.score for one in done])), limit
    pictures = [
        picture(
            one.item.image,
            one.item.anomaly_map,
            scale,
            f"{printable(one.item.path.name)}   {one.item.score:.4g}"
            + ("   stands out" if one.item.score > limit else ""),
        )
        for one in highest
    ]
    sheet = Image.new("RGB", (pictures[0].width, sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        sheet.paste(one, (0, top))
        top += one.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _write_table(path: Path, record: Mapping[str, Any]) -> None:
    facts = ("path", "format", "mode", "bits", "frames", "digest", "pixel_digest")
    scores = ("score", "p_value", "row", "column", "left_out", "stands_out")
    of = {row["path"]: row for row in (record["leave_one_out"] or {"images": []})["images"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(
        path,
        (*facts, "width", "height", "notes", *scores),
        [
            (
                *(one[name] for name in facts),
                *one["size"],
                "; ".join(one["notes"]),
                *(of.get(one["path"], {}).get(name, "") for name in scores),
            )
            for one in record["images"]
        ],
    )


def folder_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    counts = record["counts"]
    ignored = f" ({describe(record['ignored'])})" if record["ignored"] else ""
    yield (
        f"{record['folder']}: {counts['images']} images, {counts['unreadable']} unreadable, "
        f"{counts['ignored']} other files ignored{ignored}"
    )
    for name in _PROPERTIES:
        shown = [f"{count} of {value}" for value, count in list(counts[name].items())[:_SHOWN]]
        yield f"  {name + ':':16}{_some(shown, len(counts[name]))}"
    yield from _section("unreadable", [f"{one['path']}: {one['reason']}" for one in record["unreadable"]])
    told = [(one["path"], note) for one in record["images"] for note in one["notes"]]
    if not record["decoded"]:
        told = [
            (one["path"], text)
            for one in record["images"]
            for text in (
                frames_in_words(one["frames"]) * (one["frames"] > 1),
                "alpha channel" * ("alpha" in one["mode"]),
            )
            if text
        ]
    yield from _section("frames and transparency", [f"{path}: {text}" for path, text in told])
    yield from _section("likely mistakes", list(_mistakes(record)))
    yield from _score_lines(record["leave_one_out"])


def _mistakes(record: Mapping[str, Any]) -> Iterator[str]:
    for group in record["duplicates"]:
        yield f"the same file {len(group)} times: {_some(group)}"
    for group in record["equal_pixels"]:
        yield f"the same pixels in {len(group)} files: {_some(group)}"
    for odd in record["oddities"]:
        others = [f"{path} ({value})" for path, value in odd["images"].items()]
        number = f"{len(others)} of {record['counts']['images']} images"
        yield f"{odd['what']}: {number} differ from the usual {odd['common']}: {_some(others)}"


def _score_lines(scores: Mapping[str, Any] | None) -> Iterator[str]:
    yield ""
    if scores is None:
        yield "pixels were not decoded and nothing was scored (--quick)"
        return
    rows = scores["images"]
    if not rows:
        yield f"no leave-one-out scores ({scores['model']}): {scores['not_done']}"
    else:
        out = [row for row in rows if row["stands_out"]]
        fresh = sum(not row["left_out"] for row in rows)
        yield f"scores of {len(rows)} images, each by the model of all the others ({scores['model']})" + (
            f"; {fresh} were not fitted on" if fresh else ""
        )
        yield (
            f"{len(out)} stand out, above {scores['limit']:.4g} ({scores['rule']}; median {scores['median']:.4g}); "
            "look at them, and at the highest of the others:"
        )
        yield f"  {'score':>8} {'p':>7} {'row':>6} {'column':>6}"
        for row in rows[: max(len(out), 0) + _HIGHEST]:
            yield (
                f"  {row['score']:8.4g} {row['p_value']:7.2g} {row['row']:6} {row['column']:6}  "
                f"{'stands out' if row['stands_out'] else '':10}  {row['path']}"
            )
        yield "p: share of these images that score as much; row and column: the map's maximum, in the image's pixels"
    yield from _section("not scored", [f"{path}: {reason}" for path, reason in scores["not_scored"].items()])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title} ({len(lines)})"
        yield from (f"  {line}" for line in lines)


def _some(names: Sequence[str], count: int | None = None) -> str:
    more = (len(names) if count is None else count) - min(len(names), _SHOWN)
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more else "")
