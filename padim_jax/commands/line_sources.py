"""Where the images of ``padim watch`` come from, by what the user typed."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from padim_jax.commands.terminal import say
from padim_jax.images.decode import DeepImage, open_image
from padim_jax.images.folder import SUFFIXES
from padim_jax.line.backlog import WhenFull
from padim_jax.line.seen import Seen
from padim_jax.line.sources.camera import Camera, is_camera, place_of
from padim_jax.line.sources.folder import Folder
from padim_jax.line.sources.lines import STANDARD_INPUT, Lines
from padim_jax.line.sources.source import Source
from padim_jax.line.sources.trigger import CHANGE, STILL, AtRest, Every, Trigger, shrink_image
from padim_jax.line.sources.video import Video
from padim_jax.line.watch import FRAMES, QUEUE

_CAMERA_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class SourceOptions:
    """What ``padim watch`` is told about its source.

    Attributes:
      source: as typed.
      once, poll, settle: of a folder.
      every, on_motion, motion_change, still, empty: of a video or a camera.
      queue, when_full: of any; None for what suits the source.
    """

    source: str
    once: bool
    poll: float | None
    settle: float
    every: float | None
    on_motion: bool
    motion_change: float | None
    still: float | None
    empty: Path | None
    queue: int | None
    when_full: WhenFull | None

    @property
    def is_camera(self) -> bool:
        """Whether the source is a camera's address."""
        return is_camera(self.source)

    @property
    def has_frames(self) -> bool:
        """Whether the source gives frames, not files."""
        return self.is_camera or (self.source != STANDARD_INPUT and Path(self.source).is_file())

    @property
    def shows_parts_again(self) -> bool:
        """Whether several images may be of one part, which drift can't be told from."""
        return self.has_frames and not self.on_motion

    @property
    def ends(self) -> bool:
        """Whether the source comes to its end by itself."""
        return self.once or (not self.is_camera and (self.has_frames or self.source == STANDARD_INPUT))

    def backlog(self) -> tuple[int, WhenFull]:
        """How many images wait at most, and what is done with one more."""
        queue = self.queue or (FRAMES if self.has_frames else QUEUE)
        return queue, self.when_full or ("drop-oldest" if self.is_camera else "wait")

    def check(self) -> None:
        """Refuse options that the source has no use for.

        Raises:
          UsageError: naming them.
        """
        if (self.once or self.poll) and (self.has_frames or self.source == STANDARD_INPUT):
            kind = "a camera has no end" if self.is_camera else "this source ends by itself"
            raise click.UsageError(f"--once and --poll are of a folder; {kind}")
        triggers = {"--every": self.every, "--on-motion": self.on_motion or None}
        motion = {"--motion-change": self.motion_change, "--still": self.still, "--empty": self.empty}
        given = [name for name, value in (triggers | motion).items() if value is not None]
        if given and not self.has_frames:
            raise click.UsageError(f"{', '.join(given)}: of a video or a camera; elsewhere each image is judged")
        if self.on_motion and self.every is not None:
            raise click.UsageError("--every and --on-motion: choose one")
        if not self.on_motion and (given := [name for name, value in motion.items() if value is not None]):
            raise click.UsageError(f"{', '.join(given)}: of --on-motion, which is not given")
        if self.is_camera and self.when_full == "wait":
            raise click.UsageError("--when-full wait: a camera does not wait; drop-oldest or drop-newest")

    def open(self, seen: Seen, model: str) -> Source:
        """The source.

        Raises:
          ValueError, OSError, ModuleNotFoundError: as each kind says.
        """
        if self.source == STANDARD_INPUT:
            return Lines(lambda count: os.read(sys.stdin.fileno(), count))
        if self.is_camera:
            return Camera(place_of(self.source), self._trigger(), remark=say)
        path = Path(self.source)
        if not path.is_file():
            options = {"settle": self.settle, "poll": self.poll, "once": self.once}
            return Folder(path, seen, model=model, remark=say, **options)
        if path.suffix.lower() in SUFFIXES:
            raise ValueError(f"watch: {path} is one image, wanted a folder, a video, or - for paths on stdin")
        return Video(path, seen, self._trigger(), model=model, remark=say)

    def _trigger(self) -> Trigger:
        if not self.on_motion:
            return Every((_CAMERA_EVERY if self.is_camera else 0.0) if self.every is None else self.every)
        empty = None
        if self.empty is not None:
            image = open_image(self.empty)
            if isinstance(image, DeepImage):
                raise ValueError(
                    f"watch: --empty {self.empty} has more than 8 bits a channel, wanted 8, as frames have"
                )
            empty = shrink_image(image)
        change = CHANGE if self.motion_change is None else self.motion_change
        return AtRest(change, STILL if self.still is None else self.still, empty)
