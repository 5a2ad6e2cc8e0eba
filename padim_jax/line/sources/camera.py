"""A camera, over the network or plugged in: the frames that a trigger chooses, as they come."""

import hashlib
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from padim_jax.data.video import import_av, in_words, open_stream
from padim_jax.line.backlog import Arrival
from padim_jax.line.outputs.address import split_address, without_secrets
from padim_jax.line.records import time_text
from padim_jax.line.remarks import Outages, Seldom
from padim_jax.line.sources.trigger import Trigger, shrink

TIMEOUT = 10.0  # seconds to wait for a connection or a frame
LONGEST_WAIT = 30.0  # seconds between two attempts to reach a camera that is gone
_FIRST_WAIT = 1.0
_DAMAGED = 100  # packets one after another that can't be decoded, after which the connection is made anew
_STEADY = 10.0  # seconds that frames have to come for, until an outage is over
_DAMAGE = 600.0  # seconds between two words on such packets
_EXAMPLE = "rtsp://host/stream"
_OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp"},  # whole frames, where UDP may lose parts of them
    "rtsps": {},
    "http": {"protocol_whitelist": "http,https,tcp,tls,crypto"},  # a playlist must not read files of this machine
    "https": {"protocol_whitelist": "http,https,tcp,tls,crypto"},
}
_ENCRYPTED, _TLS = ("https", "rtsps"), ("http", "https", "rtsps")
_LOCAL, _DEVICE = "camera:", "/dev/video"


@dataclass(frozen=True)
class Place:
    """Where a camera is.

    Attributes:
      name: without user, password and query; of a query, a digest tells cameras of one host apart.
      file: as FFmpeg opens it, with all secrets.
      format: of FFmpeg; None to find it out.
      options: of FFmpeg.
    """

    name: str
    file: str = field(repr=False)
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_encrypted(self) -> bool:
        """Whether its certificate is checked."""
        return self.name.startswith(_ENCRYPTED)


def is_camera(source: str) -> bool:
    """Whether a source is a camera's address, right or wrong, and not a path."""
    return "://" in source or source.startswith((_LOCAL, _DEVICE))


def place_of(source: str) -> Place:
    """Where the camera of an address is: ``rtsp://…``, ``http://…``, ``camera:0`` or ``/dev/video0``.

    Raises:
      ValueError: no such address, a plugged-in camera on a system other than Linux, or an encrypted stream where no
        file of certificates is known.

    >>> place_of("rtsp://ada:secret@door/1?channel=2").name
    'rtsp://door/1?2d1e4b2b'
    """
    if source.startswith((_LOCAL, _DEVICE)):
        number = source.removeprefix(_LOCAL).removeprefix(_DEVICE)
        if not (number.isascii() and number.isdecimal()):
            raise ValueError(f"watch: {source!r} is no camera such as {_LOCAL}0 or {_DEVICE}0")
        if sys.platform != "linux":
            raise ValueError(f"watch: {source!r}: cameras that are plugged in can be read on Linux alone")
        return Place(f"{_LOCAL}{int(number)}", f"{_DEVICE}{int(number)}", "v4l2")
    parts = split_address(source, "camera", _EXAMPLE, (*_OPTIONS,))
    name = without_secrets(source)
    if parts.query:
        name += f"?{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}"
    return Place(name, source, None, _OPTIONS[parts.scheme] | _certificates(source, parts.scheme))


def _certificates(source: str, scheme: str) -> dict[str, str]:
    """Options by which FFmpeg checks a server's certificate, which it would not do by itself.

    A stream without encryption has them too: it may lead on to one that has.
    """
    known = ssl.get_default_verify_paths().cafile  # of SSL_CERT_FILE, or the system's
    if known is None and scheme in _ENCRYPTED:
        why = "no file of certificates is known, to tell whether it is that camera"
        raise ValueError(f"watch: camera {without_secrets(source)!r}: {why}; name one in SSL_CERT_FILE")
    return {"tls_verify": "1"} | ({} if known is None else {"ca_file": known}) if scheme in _TLS else {}


class Camera:
    """The frames of a camera that a trigger chooses.

    What a camera shows while nobody looks is nowhere, so nothing is found again by the next run. One that is gone is
    looked for again after one second, then two, four, up to half a minute, for as long as it takes.

    Items are ``TIME-RUN-NUMBER``: UTC by the clock, eight random digits of this run, and the number of the frame since
    it began, which tells frames apart whatever the clock does.

    Args:
      place: of the camera.
      trigger: chooses frames; times are by the clock that never goes back.
      remark: told once of each outage and its end, and now and then of frames that can't be decoded.
      timeout: seconds to wait for a connection or a frame.
      clock: seconds since 1970.

    Attributes:
      name: that of its place.

    Raises:
      ModuleNotFoundError: PyAV is not installed.
    """

    lasts: ClassVar[bool] = False

    def __init__(
        self,
        place: Place,
        trigger: Trigger,
        *,
        remark: Callable[[str], None] = lambda text: None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self._place, self._trigger, self._remark = place.name, place, trigger, remark
        self._av, self._timeout, self._clock = import_av(), timeout, clock
        self._damage = Seldom(remark, _DAMAGE)
        self._run, self._number = secrets.token_hex(4), 0

    def find(self, found: Callable[[Arrival], None], stop: threading.Event) -> None:
        """Tell of the chosen frames as they come, until ``stop`` is set."""
        wait, outages = _FIRST_WAIT, Outages(self.name, self._remark, _STEADY)
        while not stop.is_set():
            try:
                for frame in self._frames():
                    outages.frame()
                    wait = _FIRST_WAIT
                    if stop.is_set():
                        return
                    self._tell(frame, found)
                why = "its stream has ended"
            except self._av.error.ExitError:  # FFmpeg's word for a timeout
                why = f"nothing came within {self._timeout:g} s"
            except (self._av.FFmpegError, ValueError) as error:
                why = in_words(error)
                if self._place.is_encrypted:  # FFmpeg does not say which it was
                    why += "; where nobody vouches for its certificate, name a file with it in SSL_CERT_FILE"
            if stop.is_set():
                return
            outages.fail(why)
            stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    @property
    def is_telling(self) -> bool:
        """Never: a frame that was not told of is as good as one that came while nobody looked."""
        return False

    def forget(self, arrival: Arrival) -> None:
        """A frame is in memory once it is told of."""

    def _tell(self, frame: Any, found: Callable[[Arrival], None]) -> None:
        number, self._number = self._number, self._number + 1
        if self._trigger.takes(time.monotonic(), partial(shrink, frame)):
            moment = time_text(self._clock()).replace("-", "").replace(":", "")  # as a file may be named
            item = f"{moment}-{self._run}-{number}"
            pixels = frame.to_ndarray(format="rgb24")
            found(Arrival(self.name, item, Path(item), "", time.monotonic(), pixels=pixels))

    def _frames(self) -> Iterator[Any]:
        """All frames of one connection; packets that can't be decoded, as where some were lost, are passed over."""
        place, limits = self._place, {}
        if Image.MAX_IMAGE_PIXELS is not None:
            limits = {"max_pixels": str(Image.MAX_IMAGE_PIXELS)}
        options = {**place.options, **limits}
        with self._av.open(place.file, format=place.format, options=options, timeout=self._timeout) as container:
            damaged = 0
            for packet in container.demux(open_stream(container)):
                try:
                    frames = packet.decode()
                except self._av.error.InvalidDataError as error:
                    damaged += 1
                    if damaged >= _DAMAGED:
                        raise
                    self._damage.say(f"{self.name}: a frame can't be decoded ({in_words(error)}) and is passed over")
                    continue
                damaged = 0 if frames else damaged
                yield from frames
