"""Three verdicts on an image, by two rates: good, bad, or one that a person should look at.

The p-value p of an image says how rarely a good image scores as much (:mod:`padim_jax.method.calibration`):

    bad    where p ≤ false_alarm_rate,
    look   where p ≤ look_rate,
    good   otherwise.

So of good images at most a share of ``false_alarm_rate`` is called bad and at most ``look_rate`` is not called good, on
the terms of the calibration. An image on which the score says little is never called good: one that does not match the
reference of an aligned model, or is judged nowhere, or has another aspect ratio than all images fitted on. It is to be
looked at, with the reason, unless its p-value makes it bad.

A p-value of a calibration of n images is a multiple of 1 / (n + 1). Rates count as what these steps can tell: rounded
down to the next multiple, and a false-alarm rate below the first of them as the first, where it is the highest score of
the calibration that an image has to exceed, as everywhere in padim.
"""

import math
from dataclasses import dataclass, replace

from padim_jax.config import FALSE_ALARM_RATE
from padim_jax.line.records import Verdict
from padim_jax.method.calibration import Calibration, images_wanted
from padim_jax.runs.score import OTHER_SIZE, POOR_MATCH, FittedOn, ScoredImage

LOOK_RATE = 0.05
_ROUNDING = 1e-9  # 0.05 · 20 must not fall short of 1


class NoVerdicts(ValueError):
    """The rates can't be told apart by this model, or it is not calibrated; the message says what to do."""


@dataclass(frozen=True)
class Rates:
    """What is asked for.

    Attributes:
      false_alarm_rate: share of good images that may be called bad, in (0, 1); None for the threshold that the model
        has, which may have been set by hand.
      look_rate: share of good images that may not be called good, in (0, 1) and above the other.

    Raises:
      ValueError: a rate outside (0, 1), or ``look_rate`` not above ``false_alarm_rate``.
    """

    false_alarm_rate: float | None = FALSE_ALARM_RATE
    look_rate: float = LOOK_RATE

    def __post_init__(self) -> None:
        for name, rate in (("false_alarm_rate", self.false_alarm_rate), ("look_rate", self.look_rate)):
            if rate is not None and not 0 < rate < 1:
                raise ValueError(f"Rates: {name}={rate!r}, wanted a number above 0 and below 1")
        if self.false_alarm_rate is not None and not self.false_alarm_rate < self.look_rate:
            raise ValueError(
                f"Rates: look_rate={self.look_rate!r}, wanted more than false_alarm_rate={self.false_alarm_rate!r}: "
                "images that are not called good include those that are called bad"
            )


@dataclass(frozen=True)
class Decider:
    """Gives the images of one model their verdicts.

    Attributes:
      bad_up_to: images with p-values up to this are bad, a multiple of 1 / (n + 1); None for the model's threshold,
        set by hand.
      look_up_to: images with p-values up to this are not good, likewise.
      threshold: score above which an image is bad where ``bad_up_to`` is None.
      fitted_on: which aspect ratios the model knows.
      step: 1 / (n + 1).
      remark: what is to be known of the rates; empty where they are what was asked for.
    """

    bad_up_to: float | None
    look_up_to: float
    threshold: float
    fitted_on: FittedOn
    step: float
    remark: str = ""

    @classmethod
    def of(cls, call: str, calibration: Calibration | None, rates: Rates, fitted_on: FittedOn) -> "Decider":
        """The decider of a model with this calibration.

        Args:
          call: who asks, for messages.
          calibration: the model's.
          rates: what is asked for.
          fitted_on: as :class:`padim_jax.runs.score.FittedOn` reads it.

        Raises:
          NoVerdicts: no calibration; or one of so few images that no p-value lies between the rates.
        """
        if calibration is None:
            raise NoVerdicts(
                f"{call}: the model is not calibrated, so it has no p-values and no verdicts; run padim calibrate on it"
            )
        n, step = len(calibration.scores), 1 / (len(calibration.scores) + 1)
        by_hand = rates.false_alarm_rate is None and calibration.threshold_source == "set"
        rate = calibration.false_alarm_rate if rates.false_alarm_rate is None else rates.false_alarm_rate
        first = calibration.attained_rate if by_hand else max(1, _steps(rate, n)) * step
        steps = _steps(rates.look_rate, n)
        if steps * step <= first + _ROUNDING:
            enough = max(images_wanted(rates.look_rate), images_wanted(rate))
            told = f"its threshold, set by hand, gives {first:.3g}" if by_hand else f"the first step is {first:.3g}"
            raise NoVerdicts(
                f"{call}: look_rate={rates.look_rate:g}, wanted more than what is called bad: the model is calibrated "
                f"on {n} good images, which tell p-values in steps of {step:.3g}, and {told}; wanted at least "
                f"{first + step:.3g}, or a calibration on {enough} images or more (padim calibrate)"
            )
        remark = ""
        if not by_hand and rate < step - _ROUNDING:
            remark = (
                f"{n} images are too few for a false-alarm rate of {rate:g}, which takes {images_wanted(rate)}; an "
                f"image is bad that scores above all of them, which {step:.2%} of good images do"
            )
        threshold = float(calibration.threshold)
        return cls(None if by_hand else first, steps * step, threshold, fitted_on, step, remark)

    def at(self, calibration: Calibration | None, rates: Rates) -> "Decider":
        """What decides by other rates on the results of the same model, whose calibration is given.

        Raises:
          NoVerdicts: as :meth:`of`.
        """
        return Decider.of("rates", calibration, rates, self.fitted_on)

    def decide(self, item: ScoredImage) -> ScoredImage:
        """The same result with its verdict; its notes are to be there already."""
        return replace(item, decided=self.verdict(item)[0])

    def verdict_on_file(self, item: ScoredImage) -> Verdict:
        """The verdict on a result as :func:`padim_jax.runs.score.score_files` gives it, without notes of the fit."""
        return self.verdict(self.fitted_on.annotate(item))[0]

    def verdict(self, item: ScoredImage) -> tuple[Verdict, str]:
        """The verdict on a result of this model, and why; the reason of a good one is empty."""
        assert item.p_value is not None
        p = item.p_value
        if self.bad_up_to is None:
            if item.score > self.threshold:
                return "bad", f"score {item.score:.4g}, above the threshold of {self.threshold:.4g} set by hand"
        elif p < self.bad_up_to + self.step / 2:
            return "bad", f"p = {p:.3g}, at most {self.bad_up_to:.3g}"
        doubts = [note for note in item.notes if POOR_MATCH in note or (OTHER_SIZE in note and "aspect" in note)]
        if doubts:
            return "look", "; ".join(doubts)
        if p < self.look_up_to + self.step / 2:
            return "look", f"p = {p:.3g}, at most {self.look_up_to:.3g}"
        return "good", ""


def _steps(rate: float, n: int) -> int:
    return math.floor(rate * (n + 1) + _ROUNDING)
