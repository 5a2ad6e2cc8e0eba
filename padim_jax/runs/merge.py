"""Join stored models, as if one had been fitted on the images of all."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from padim_jax.artifact import Updatable, note_change
from padim_jax.method.calibration import Calibration, at_rates, at_threshold, join_calibrations
from padim_jax.method.fitting import merge
from padim_jax.runs.recalibration import rate_options, rates_of, tell_replaced
from padim_jax.runs.records import MOST_SIZES
from padim_jax.runs.watch import warn

Remark = Callable[[str], None]


def merge_models(
    parts: Iterable[Updatable],
    *,
    false_alarm_rate: float | None = None,
    pixel_rate: float | None = None,
    remark: Remark = warn,
) -> Updatable:
    """Join stored models that were fitted alike; no image is needed.

    They are joined in pairs, pairs of pairs and so on, so that rounding grows with the logarithm of their number, and
    so do the models held in memory where ``parts`` loads one at a time. The calibration scores of all are kept, but not
    where maps are standardised: the whole's maps are not like those of the parts, and it comes back uncalibrated.

    Args:
      parts: models, as :func:`padim_jax.load_updatable` gives them.
      false_alarm_rate: for the whole's threshold, also where that of all parts was set by hand. Default: the first
        calibrated part's.
      pixel_rate: for the whole's pixel threshold. Default: the first calibrated part's.
      remark: is told, in a sentence, of images that count twice and of what becomes of thresholds.

    Raises:
      ValueError: no part; two were not fitted alike, or have different regions of interest.
    """
    pending: list[tuple[int, Updatable]] = []  # how many models each is made of: falling powers of two
    lost: list[Calibration] = []
    for part in parts:
        size, merged = 1, part
        if part.standard is not None and part.calibration is not None:
            lost.append(part.calibration)
        while pending and pending[-1][0] == size:
            size, merged = 2 * size, _merge_pair(pending.pop()[1], merged, remark)
        pending.append((size, merged))
    if not pending:
        raise ValueError("merge: wanted at least one model, got none")
    merged = pending.pop()[1]
    while pending:
        merged = _merge_pair(pending.pop()[1], merged, remark)
    calibration = merged.calibration
    if calibration is None:
        if lost:
            remark(_lost(lost))
        return merged
    remark(
        f"note: the {len(calibration.scores)} calibration scores are those of the parts; the whole knows "
        "more images, so they are rather too high than too low (padim calibrate on good images makes them exact)"
    )
    rates, by_hand = rates_of(calibration, false_alarm_rate, pixel_rate), calibration.threshold_source == "set"
    if by_hand and false_alarm_rate is None:  # only another rate takes it away
        return replace(merged, calibration=at_threshold(calibration, float(calibration.threshold), rates[1]))
    changed = at_rates(calibration, *rates)
    if by_hand:
        tell_replaced(calibration, changed, remark)
    return replace(merged, calibration=changed)


def _merge_pair(first: Updatable, second: Updatable, remark: Remark) -> Updatable:
    if (first.roi is None) != (second.roi is None) or (first.roi is not None and (first.roi != second.roi).any()):
        raise ValueError("merge: two have different regions of interest; only like models can be merged")
    if shared := len(first.images.keys() & second.images.keys()):
        remark(f"warning: {shared} images are in both and count twice now")
    images = dict(first.images)
    is_standardised = first.moments.config.is_standardised
    for digest, weight in second.images.items():
        images[digest] = images.get(digest, 0) + weight
    return replace(
        first,
        moments=merge(first.moments, second.moments),
        images=images,
        calibration=None if is_standardised else _merge_calibrations(first, second, shared, remark),
        standard=None,
        progress=note_change(None, "merged"),
        image_sizes=tuple(dict.fromkeys((*first.image_sizes, *second.image_sizes)))[:MOST_SIZES],
    )


def _merge_calibrations(first: Updatable, second: Updatable, shared: int, remark: Remark) -> Calibration | None:
    """The scores of both, with the threshold where they agree on one that was set by hand."""
    parts = [part.calibration for part in (first, second) if part.calibration is not None]
    if not parts:
        return None
    by_hand = _set_by_hand(parts)
    if shared and len(parts) == 2:  # scores of one image in two models are not independent
        parts = [max(parts, key=lambda part: len(part.scores))]
        remark(f"note: only the {len(parts[0].scores)} calibration scores of one of the two are kept")
    merged = join_calibrations(parts, parts[0].false_alarm_rate, parts[0].pixel_rate)
    if len(by_hand) == 1 and all(part.threshold_source == "set" for part in parts):
        merged = at_threshold(merged, by_hand[0])
    elif by_hand:
        remark(
            f"warning: thresholds of parts were set by hand ({_listed(by_hand)}) and differ; the whole takes "
            f"{float(merged.threshold):.4g}, from its scores"
        )
    return merged


def _lost(parts: Sequence[Calibration]) -> str:
    """A remark on the calibrations of parts whose maps are standardised."""
    by_hand = _set_by_hand(parts)
    thresholds = f" and loses what was set by hand as a threshold ({_listed(by_hand)})" if by_hand else ""
    return (
        "warning: the maps of the parts do not standardise those of the whole; the merged model is not calibrated"
        f"{thresholds}: padim calibrate MODEL GOOD_DIR{rate_options(parts[0])}"
    )


def _set_by_hand(parts: Sequence[Calibration]) -> list[float]:
    """Thresholds that were set by hand, each once, in order."""
    return sorted({float(part.threshold) for part in parts if part.threshold_source == "set"})


def _listed(thresholds: Sequence[float]) -> str:
    return ", ".join(f"{threshold:.4g}" for threshold in thresholds)
