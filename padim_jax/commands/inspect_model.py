"""``padim inspect`` of a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from padim_jax.artifact import Updatable
from padim_jax.artifact.folder import read_manifest
from padim_jax.commands.calibrate import load_any
from padim_jax.commands.terminal import progress_bar
from padim_jax.images import UnreadableImage, load_batches
from padim_jax.inspection.positions import (
    MOST_FOR_PEAKS,
    find_conditions,
    find_peaks,
    log_determinants,
    mean_lengths,
)
from padim_jax.method.alignment import FEWEST
from padim_jax.method.records import Padim
from padim_jax.method.scoring import with_solver
from padim_jax.pictures import grid_picture

_SHOWN = 10  # positions, files and settings; --json has all


def inspect_model(path: Path, images: Sequence[Path] | None, out: Path | None, batch_size: int) -> dict[str, Any]:
    """Everything there is to say of a model, as JSON has it; writes pictures to ``out``.

    Args:
      path: of the model.
      images: good ones, to look for positions with two peaks; None for none.
      out: folder; None writes nothing.
      batch_size: images computed at once.
    """
    manifest, stored = read_manifest(path), load_any(path)
    memory = {"backbone": _nbytes(stored.backbone)}
    if isinstance(stored, Updatable):
        listed = dict(stored.images)
        memory["moments"] = _nbytes(stored.moments)
        model = stored.model(solver="triangular-solve", donate=True)
    else:
        listed, model = None, stored
        if model.gaussian.solver == "inverse-factor":
            model = with_solver(model, "triangular-solve")
    memory["gaussian"] = _nbytes(model.gaussian)
    grid, known = model.embedding.grid, model.calibration
    conditions = find_conditions(model)
    worst = int(conditions.numbers.argmax())
    determinants = log_determinants(model)
    unreadable: list[UnreadableImage] = []
    record: dict[str, Any] = {
        "model": str(path),
        "form": manifest.get("form", "square"),
        "max_error": manifest.get("max_error"),
        "schema": manifest["schema"],
        "versions": manifest.get("versions", {}),
        "backbone": model.embedding.backbone,
        "weights_digest": model.embedding.weights_digest,
        "taps": list(model.embedding.taps),
        "dimension": model.embedding.dimension,
        "grid": list(grid),
        "config": asdict(model.config),
        "n": float(model.count),
        "bytes_on_disk": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "bytes_in_memory": memory,
        "images_listed": listed,
        "roi_share": None if model.roi is None else float(np.asarray(model.roi).mean()),
        "calibration": None
        if known is None
        else {
            "method": known.method,
            "n": len(known.scores),
            "threshold": float(known.threshold),
            "threshold_source": known.threshold_source,
            "pixel_threshold": float(known.pixel_threshold),
            "false_alarm_rate": known.false_alarm_rate,
            "pixel_rate": known.pixel_rate,
            "attained_rate": known.attained_rate,
            "interval": list(known.interval()),
            "images_wanted": known.images_wanted,
        },
        "condition_numbers": {
            "median": float(np.median(conditions.numbers)),
            "worst": float(conditions.numbers[worst]),
            "worst_at": _cell(int(conditions.positions[worst]), grid),
            "positions": len(conditions.numbers),
            "of": conditions.n_positions,
        },
        "log_determinant": {
            "least": float(determinants.min()),
            "least_at": _cell(int(determinants.argmin()), grid),
            "most": float(determinants.max()),
            "most_at": _cell(int(determinants.argmax()), grid),
        },
        "unreadable": [],
        "two_peaked": None,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _draw(out / "mean.png", mean_lengths(model), "length of the mean embedding")
        _draw(out / "log_determinant.png", determinants, "log determinant of the covariance: how much good images vary")
    if images is not None:
        record["two_peaked"] = _peaks(model, images, batch_size, unreadable, out)
        record["unreadable"] = [{"path": str(error.path), "reason": error.reason} for error in unreadable]
    return record


def _peaks(
    model: Padim, paths: Sequence[Path], batch_size: int, unreadable: list[UnreadableImage], out: Path | None
) -> dict[str, Any]:
    even = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_FOR_PEAKS)).round().astype(int))
    chosen = [paths[index] for index in even]
    read: list[Path] = []
    with progress_bar("peaks", len(chosen)) as advance:

        def batches() -> Iterator[np.ndarray]:
            for batch in load_batches(chosen, model.config, batch_size, unreadable.append, _pass):
                read.extend(batch.paths)
                yield batch.images
                advance(len(batch.paths))

        if len(chosen) < FEWEST:
            return {"not_done": f"{len(chosen)} images, wanted {FEWEST} or more"}
        try:
            peaks = find_peaks(model, batches())
        except ValueError as error:
            if len(read) >= FEWEST:
                raise
            return {"not_done": str(error)}
    if out is not None:
        title = f"variance explained by two groups; from {peaks.limit:.3g} two-peaked"
        _draw(out / "two_peaks.png", peaks.ratio, title)
    strongest = np.unravel_index(int(peaks.ratio.argmax()), peaks.ratio.shape)
    return {
        "images": peaks.count,
        "of": len(paths),
        "limit": peaks.limit,
        "positions": [
            {"row": row, "column": column, "ratio": float(peaks.ratio[row, column])} for row, column in peaks.found
        ],
        "strongest": {
            "row": int(strongest[0]),
            "column": int(strongest[1]),
            "ratio": float(peaks.ratio.max()),
            "smaller_group": [str(read[index]) for index in peaks.strongest],
        },
    }


def model_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person."""
    config, grid, memory = record["config"], record["grid"], record["bytes_in_memory"]
    yield f"{record['model']}: {record['form']} form, schema {record['schema']}" + (
        "" if record["max_error"] is None else f"; distances within {record['max_error']:.2g} of the exact ones"
    )
    yield f"  backbone:     {record['backbone']}, {', '.join(record['taps'])}, weights {record['weights_digest'][:12]}"
    yield f"  embedding:    d = {record['dimension']} at {grid[0]}×{grid[1]} positions"
    yield f"  settings:     {', '.join(f'{name} = {value}' for name, value in config.items())}"
    rank = record["n"] - 1
    low = f"; n ≤ d: covariances have rank {rank:g} before the ridge" if record["n"] <= record["dimension"] else ""
    yield f"  fitted on:    {record['n']:.6g} images{low}"
    listed = record["images_listed"]
    yield "  images:       " + (
        "not listed in this form" if listed is None else f"{len(listed)} files listed by digest"
    )
    each = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in memory.items())
    yield f"  size:         {record['bytes_on_disk'] / 1e6:.1f} MB on disk; in memory {each} MB"
    yield f"  written by:   {', '.join(f'{name} {version}' for name, version in record['versions'].items())}"
    share = record["roi_share"]
    yield "  looks at:     " + ("everything" if share is None else f"{share:.1%} of the crop (region of interest)")
    yield from _calibration_lines(record["calibration"])
    numbers = record["condition_numbers"]
    looked = "" if numbers["positions"] == numbers["of"] else f", of {numbers['positions']} positions drawn evenly"
    yield (
        f"  conditioning: condition numbers of the {numbers['of']} covariances: median {numbers['median']:.3g}, "
        f"worst {numbers['worst']:.3g} at {_at(numbers['worst_at'])}{looked}"
    )
    spread = record["log_determinant"]
    yield (
        f"  variation:    log det Σ from {spread['least']:.4g} at {_at(spread['least_at'])} to "
        f"{spread['most']:.4g} at {_at(spread['most_at'])}"
    )
    yield from _peak_lines(record["two_peaked"])
    for one in record["unreadable"]:
        yield f"not read: {one['path']}: {one['reason']}"


def _calibration_lines(known: Mapping[str, Any] | None) -> Iterator[str]:
    if known is None:
        yield "  calibration:  none: scores come without p-values and verdicts (padim calibrate)"
        return
    (low, high), by_hand = known["interval"], known["threshold_source"] == "set"
    yield (
        f"  calibration:  {known['n']} good images ({known['method']}); above {known['threshold']:.4g}"
        f"{', set by hand,' if by_hand else ''} is anomalous, pixels above {known['pixel_threshold']:.4g} are marked"
    )
    asked = "" if by_hand else f"{known['false_alarm_rate']:.2%} asked for, "
    yield (
        f"                false alarms {known['attained_rate']:.2%} expected, "
        f"{asked}{low:.2%} to {high:.2%} with 95 % confidence"
    )
    if known["n"] < known["images_wanted"]:
        yield (
            f"                warning: too few images for that rate, which takes {known['images_wanted']}; the "
            "threshold is their highest score"
        )


def _peak_lines(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "  two peaks:    not looked for; --images GOOD_DIR looks, by images"
        return
    if "not_done" in found:
        yield f"  two peaks:    not looked for: {found['not_done']}"
        return
    positions, best = found["positions"], found["strongest"]
    drawn = "" if found["images"] == found["of"] else f" of {found['of']}"
    yield (
        f"  two peaks:    {len(positions)} positions where {found['images']}{drawn} images fall into two groups "
        f"(which explain {found['limit']:.0%} of the variance along the leading eigenvector, or more)"
    )
    for one in positions[:_SHOWN]:
        yield f"                row {one['row']}, column {one['column']}: {one['ratio']:.1%}"
    if (more := len(positions) - _SHOWN) > 0:
        yield f"                and {more} more"
    if positions:
        group = best["smaller_group"]
        others = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
        yield f"                the smaller group at the first: {', '.join(group[:_SHOWN])}{others}"


def _draw(path: Path, values: Float[np.ndarray, "rows columns"], title: str) -> None:
    grid_picture(values, title).save(path)


def _cell(position: int, grid: tuple[int, int]) -> list[int]:
    return list(divmod(position, grid[1]))


def _at(cell: Sequence[int]) -> str:
    return f"row {cell[0]}, column {cell[1]}"


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _pass(path: Path, text: str) -> None:
    """Notes on files are for inspecting their folder."""
