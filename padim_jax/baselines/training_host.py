"""What the caller of a training gives it: a place for the unfinished, and what it calls meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass

from padim_jax.baselines.training_checkpoint import TrainingCheckpoint


def no_advance(step: int, steps: int, loss: float, images_per_second: float) -> None:
    """Show nothing."""


def no_note(text: str) -> None:
    """Say nothing."""


def never() -> bool:
    """Whether to stop: no."""
    return False


@dataclass(frozen=True)
class TrainingHost:
    """What a training keeps and tells meanwhile, and who stops it; by default nothing is kept or told.

    Attributes:
      checkpoint: where an unfinished training is kept; None for nowhere. It stays when training ends.
      advance: told every ten steps how many are done, how many there are at most, the last loss, and how many images
        are learnt from a second.
      note: told in a sentence where training goes on from a checkpoint, begins anew in spite of one, and ends early.
      stopped: asked every ten steps whether to stop.

    >>> from padim_jax import baselines
    >>> method = baselines.method("ae")
    >>> settings = method.settings(config=baselines.shared_settings(config, method.settings), width=4, steps=10)
    >>> host = baselines.TrainingHost(advance=lambda step, steps, *more: print(f"step {step} of {steps}"))
    >>> model = method.fit(None, [good_images], settings, host=host)
    step 10 of 10
    """

    checkpoint: TrainingCheckpoint | None = None
    advance: Callable[[int, int, float, float], None] = no_advance
    note: Callable[[str], None] = no_note
    stopped: Callable[[], bool] = never
