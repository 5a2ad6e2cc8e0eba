"""What ``padim inspect`` says of a model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SHOWN = 10  # positions, files and settings; --json has all


def model_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What :meth:`padim_jax.inspection.ModelInspection.record` says, for a person."""
    config, grid, memory = record["config"], record["grid"], record["bytes_in_memory"]
    yield f"{record['model']}: {record['form']} form, schema {record['schema']}" + (
        "" if record["max_error"] is None else f"; distances within {record['max_error']:.2g} of the exact ones"
    )
    yield f"  backbone:     {record['backbone']}, {', '.join(record['taps'])}, weights {record['weights_digest'][:12]}"
    yield f"  embedding:    d = {record['dimension']} at {grid[0]}×{grid[1]} positions"
    yield f"  settings:     {', '.join(f'{name} = {value}' for name, value in config.items())}"
    rank, is_shared = record["n"] - 1, config.get("positions") == "shared"
    is_low = record["n"] <= record["dimension"] and not is_shared
    low_rank = f"; n ≤ d: covariances have rank {rank:g} before the ridge" if is_low else ""
    yield f"  fitted on:    {record['n']:.6g} images{low_rank}"
    listed = record["images_listed"]
    yield "  images:       " + (
        "not listed in this form" if listed is None else f"{len(listed)} files listed by digest"
    )
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in memory.items())
    yield f"  size:         {record['bytes_on_disk'] / 1e6:.1f} MB on disk; in memory {parts} MB"
    yield f"  written by:   {', '.join(f'{name} {version}' for name, version in record['versions'].items())}"
    share = record["roi_share"]
    yield "  looks at:     " + ("everything" if share is None else f"{share:.1%} of the crop (region of interest)")
    is_standardised = config.get("anomaly_map", "distance") != "distance"
    yield from _calibration_lines(record["calibration"], is_standardised)
    numbers, spread = record["condition_numbers"], record["log_determinant"]
    if is_shared:
        of = "the covariance" if numbers["of"] == 1 else f"the {numbers['of']} covariances"
        yield (
            f"  conditioning: condition numbers of {of} that all positions share: median {numbers['median']:.3g}, "
            f"worst {numbers['worst']:.3g}"
        )
        yield f"  variation:    log det Σ from {spread['least']:.4g} to {spread['most']:.4g}"
    else:
        yield from _covariance_lines(numbers, spread)
    yield from _peak_lines(record["two_peaked"])
    for file in record["unreadable"]:
        yield f"not read: {file['path']}: {file['reason']}"


def _covariance_lines(numbers: Mapping[str, Any], spread: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say about the covariances of all positions."""
    sample = "" if numbers["positions"] == numbers["of"] else f", of {numbers['positions']} positions drawn evenly"
    yield (
        f"  conditioning: condition numbers of the {numbers['of']} covariances: median {numbers['median']:.3g}, "
        f"worst {numbers['worst']:.3g} at {_at(numbers['worst_at'])}{sample}"
    )
    yield (
        f"  variation:    log det Σ from {spread['least']:.4g} at {_at(spread['least_at'])} to "
        f"{spread['most']:.4g} at {_at(spread['most_at'])}"
    )


def _calibration_lines(facts: Mapping[str, Any] | None, is_standardised: bool) -> Iterator[str]:
    if facts is None:
        missing = "there are no scores before it" if is_standardised else "scores come without p-values and verdicts"
        yield f"  calibration:  none: {missing} (padim calibrate)"
        return
    (low, high), by_hand = facts["interval"], facts["threshold_source"] == "set"
    yield (
        f"  calibration:  {facts['n']} good images ({facts['method']}); above {facts['threshold']:.4g}"
        f"{', set by hand,' if by_hand else ''} is anomalous, pixels above {facts['pixel_threshold']:.4g} are marked"
    )
    target = "" if by_hand else f"{facts['false_alarm_rate']:.2%} asked for, "
    yield (
        f"                false alarms {facts['attained_rate']:.2%} expected, "
        f"{target}{low:.2%} to {high:.2%} with 95% confidence"
    )
    if facts["n"] < facts["images_wanted"]:
        yield (
            f"                warning: too few images for that rate, which takes {facts['images_wanted']}; the "
            "threshold is their highest score"
        )


def _peak_lines(search: Mapping[str, Any] | None) -> Iterator[str]:
    if search is None:
        yield "  two peaks:    not looked for; --images GOOD_DIR looks for them"
        return
    if "not_done" in search:
        yield f"  two peaks:    not looked for: {search['not_done']}"
        return
    positions, best = search["positions"], search["strongest"]
    sample = "" if search["images"] == search["of"] else f" of {search['of']}"
    yield (
        f"  two peaks:    {len(positions)} positions where {search['images']}{sample} images fall into two groups "
        f"(which explain {search['limit']:.0%} of the variance along the leading eigenvector, or more)"
    )
    for position in positions[:_SHOWN]:
        yield f"                {_at((position['row'], position['column']))}: {position['ratio']:.1%}"
    if (more := len(positions) - _SHOWN) > 0:
        yield f"                and {more} more"
    if positions:
        group = best["smaller_group"]
        others = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
        yield f"                the smaller group at the first: {', '.join(group[:_SHOWN])}{others}"


def _at(cell: Sequence[int]) -> str:
    return f"row {cell[0]}, column {cell[1]}"
