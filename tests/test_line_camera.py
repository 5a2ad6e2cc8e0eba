"""A camera as the source of a watch: it comes and goes, it is faster than the judge, and its clock is anything."""

import contextlib
import ipaddress
import itertools
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from padim_jax.line.backlog import WhenFull
from padim_jax.line.judge import Judge
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.output import Output, Picture, hand_on
from padim_jax.line.records import Decision
from padim_jax.line.sources.camera import Camera, place_of
from padim_jax.line.sources.trigger import AtRest, Every, Trigger
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from padim_jax.line.watch import Limits, Summary, watch_line
from tests.line_parts import fit_model, open_judge, parts
from tests.mjpeg import MjpegCamera
from tests.test_line_store import Clock
from tests.test_line_watch import WAIT, wait_for

RATES = Rates(None, 0.2)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return open_judge(fit_model(tmp_path_factory.mktemp("line") / "bracket"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "line.db") as store:
        yield store


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[MjpegCamera]:
    monkeypatch.setattr("padim_jax.line.sources.camera._FIRST_WAIT", 0.05)
    monkeypatch.setattr("padim_jax.line.sources.camera._STEADY", 0.0)
    camera = MjpegCamera(list(np.concatenate([parts(3, seed=5), parts(1, seed=6, defect=True)])))
    yield camera
    camera.off()


class Watching:
    """A watch on a camera in a thread, until the block ends."""

    def __init__(
        self,
        url: str,
        judge: Judge,
        store: Store,
        *outputs: Output,
        trigger: Trigger | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.decisions, self.remarks, self.summary, self._stop = list[Decision](), list[str](), Summary(), False
        place, options = place_of(url), {} if clock is None else {"clock": clock}
        self.source = Camera(place, trigger or Every(0.0), remark=self.remarks.append, timeout=1.0, **options)

        def work() -> None:
            self.summary = watch_line(
                self.source,
                judge,
                store,
                outputs,
                limits=limits or Limits(32, "drop-oldest"),
                remark=self.remarks.append,
                told=self.decisions.append,
                stopped=lambda: self._stop,
            )

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> "Watching":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop = True
        self._thread.join(WAIT)
        assert not self._thread.is_alive()

    def until_more(self, count: int) -> None:
        """Wait until so many more decisions are there."""
        goal = len(self.decisions) + count
        wait_for(lambda: len(self.decisions) >= goal)

    def until_said(self, text: str) -> None:
        wait_for(lambda: any(text in remark for remark in self.remarks))


def assert_none_lost_none_twice(line: Watching, store: Store) -> None:
    """Every frame that was told of has one decision or is counted as dropped."""
    items = [found.item for found in store.decisions()]
    dropped = [one.item for one in store.seen.dropped()]
    assert len(dropped) == line.summary.dropped
    assert len(items) == line.summary.verdicts.total() == len(set(items))
    numbers = sorted(int(item.rsplit("-", 1)[1]) for item in [*items, *dropped])
    assert numbers == list(range(line.source._number))  # each frame is chosen


@pytest.mark.slow
def test_a_camera_that_goes_and_comes_back_loses_nothing_and_decides_nothing_twice(
    camera: MjpegCamera, judge: Judge, store: Store
) -> None:
    with Watching(camera.url, judge, store) as line:  # it is not there yet
        line.until_said("(Connection refused); it is tried again")
        for _ in range(3):
            camera.on()
            line.until_more(5)
            camera.off()
            count = len(line.remarks)
            wait_for(lambda count=count: any("no frames come from" in text for text in line.remarks[count - 1 :]))
        camera.on()
        line.until_said("frames come from http://127.0.0.1")
        line.until_more(5)
    assert_none_lost_none_twice(line, store)
    assert {found.verdict for found in line.decisions} >= {"bad"}
    assert len([text for text in line.remarks if text.startswith("frames come")]) == 4  # each outage ends once


def test_a_clock_that_stands_still_or_is_set_back_loses_nothing(
    camera: MjpegCamera, judge: Judge, tmp_path: Path
) -> None:
    clock = Clock(1.8e9)
    camera.on()
    with Store.open(tmp_path / "line.db", clock=clock) as store:
        for _ in range(2):  # and the watch is started again
            with Watching(camera.url, judge, store, clock=clock) as line:
                line.until_more(10)  # many of one moment, and equal pixels among them
                clock.now -= 3600
                line.until_more(10)
            before = [found for found in store.decisions() if line.source._run not in found.item]
            assert len(line.decisions) == len({found.item for found in line.decisions}) >= 20
            assert len(before) + len(line.decisions) == sum(store.count().values())
        sequences = [found.sequence for found in store.decisions()]
        assert sequences == sorted(sequences)


@pytest.mark.parametrize("when_full", ["drop-oldest", "drop-newest"])
def test_a_judge_that_is_slower_than_the_camera_drops_frames_and_counts_them(
    camera: MjpegCamera, judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch, when_full: WhenFull
) -> None:
    finish = judge.finish
    monkeypatch.setattr(judge, "finish", lambda begun: (time.sleep(0.3), finish(begun))[1])
    camera.interval = 0.005
    camera.on()
    with Watching(camera.url, judge, store, limits=Limits(2, when_full)) as line:
        line.until_more(12)
    assert line.summary.dropped > 12
    assert_none_lost_none_twice(line, store)
    said = [text for text in line.remarks if text.startswith("dropped ")]
    assert 1 <= len(said) <= 3  # not one for each
    assert f"2 images waited already (--when-full {when_full})" in said[0]


def test_a_camera_that_says_nothing_is_taken_for_gone(camera: MjpegCamera, judge: Judge, store: Store) -> None:
    camera.on()
    with Watching(camera.url, judge, store) as line:
        line.until_more(3)
        camera.is_frozen = True
        line.until_said("(nothing came within 1 s)")
        camera.is_frozen = False
        line.until_said("frames come from")


def test_frames_come_at_the_interval_that_was_chosen(camera: MjpegCamera, judge: Judge, store: Store) -> None:
    camera.on()
    with Watching(camera.url, judge, store, trigger=Every(0.25)) as line:
        line.until_more(4)
    numbers = [int(found.item.rsplit("-", 1)[1]) for found in line.decisions]
    assert all(later - one >= 3 for one, later in itertools.pairwise(numbers[1:]))
    assert line.summary.dropped == 0


def test_a_part_that_lies_still_is_not_decided_again_after_the_camera_was_gone(judge: Judge, store: Store) -> None:
    camera = MjpegCamera([parts(1, seed=5)[0]])
    camera.on()
    with Watching(camera.url, judge, store, trigger=AtRest(still=0.1)) as line:
        line.until_more(1)
        camera.off()
        line.until_said("no frames come")
        camera.on()
        line.until_said("again, after")
        wait_for(lambda number=line.source._number: line.source._number > number + 30)
    camera.off()
    assert len(line.decisions) == 1


def test_bad_frames_are_kept_as_png_with_their_picture(
    camera: MjpegCamera, judge: Judge, store: Store, tmp_path: Path
) -> None:
    camera.on()
    with Watching(camera.url, judge, store, BadFolder(tmp_path / "bad", judge)) as line:
        wait_for(lambda: any(found.verdict == "bad" for found in line.decisions))
    bad = [found for found in line.decisions if found.verdict == "bad"]
    copies = sorted((tmp_path / "bad").glob("*.png"))
    assert [copy.stem.split("-", 2)[2] for copy in copies] == [found.item for found in bad]
    for copy in copies:
        with Image.open(copy) as image:
            assert image.size == (48, 32)
    assert len(list((tmp_path / "bad" / "pictures").glob("*.png"))) == len(bad)
    assert not list((tmp_path / "bad" / ".frames").iterdir())
    said, (copy, *_) = list[str](), copies
    BadFolder(tmp_path / "bad", judge, said.append).deliver(bad[0], 2)  # another process, killed before it was noted
    assert said == []
    copy.unlink()
    BadFolder(tmp_path / "bad", judge, said.append).deliver(bad[0], 2)
    assert not copy.exists()
    assert "a camera's frame, which is kept nowhere else; it is not kept" in said[0]


@pytest.mark.parametrize("other", ["killed", "full"])
def test_a_bad_frame_is_kept_before_it_is_recorded(
    camera: MjpegCamera, judge: Judge, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    said, folder = list[str](), BadFolder(tmp_path / "bad", judge)
    second, deliver = BadFolder(tmp_path / "bad", judge, said.append), folder.deliver
    failures = [OSError(28, "No space left on device")]

    def fail(decision: Decision, attempt: int, picture: Picture | None = None) -> None:
        if other == "full" and not failures:
            return deliver(decision, attempt, picture)
        raise failures.pop() if failures else OSError("killed")

    monkeypatch.setattr("padim_jax.line.outbox._FIRST_WAIT", 0.05 if other == "full" else 60.0)
    monkeypatch.setattr(folder, "deliver", fail)
    camera.on()
    with Watching(camera.url, judge, store, folder) as line:
        wait_for(lambda: any(found.verdict == "bad" for found in line.decisions))
        if other == "full":
            wait_for(lambda: list((tmp_path / "bad").glob("*.png")))
    store.outbox.make_due(second.name)
    hand_on(store, second, {}, said.append)
    bad = [found for found in line.decisions if found.verdict == "bad"]
    assert said == []
    assert len(bad) == len(list((tmp_path / "bad").glob("*.png")))
    assert len(bad) == len(list((tmp_path / "bad" / "pictures").glob("*.png")))
    assert not list((tmp_path / "bad" / ".frames").iterdir())


def test_a_frame_that_can_not_be_kept_is_said(tmp_path: Path, store: Store, judge: Judge) -> None:
    said = list[str]()
    folder = BadFolder(tmp_path / "bad", judge, said.append)
    (tmp_path / "bad" / ".frames").write_text("in the way")
    folder.keep(Decision("camera:0", "i", "0a", "m", "d", "bad"), parts(1, seed=5)[0])
    assert "i can't be kept" in said[0]


def test_no_word_and_no_record_has_the_password(camera: MjpegCamera, judge: Judge, store: Store) -> None:
    url = camera.url.replace("127.0.0.1", "ada:s3cret@127.0.0.1") + "?token=s3cret"
    camera.status = 401
    with Watching(url, judge, store) as line:
        line.until_said("Connection refused")
        camera.on()
        line.until_said("401 Unauthorized")
        camera.off()
        camera.status = 200
        camera.on()
        line.until_more(1)
    (name,) = {found.source for found in store.decisions()}
    assert name.startswith(f"http://127.0.0.1:{camera.port}/stream.mjpg?")
    assert name == place_of(url).name != place_of(url + "&channel=2").name
    everything = [*line.remarks, *map(str, store.decisions()), repr(place_of(url))]
    assert not [text for text in everything if "s3cret" in text or "ada" in text]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 by itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, address = datetime.now(UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=True)
    made, files = builder.sign(key, hashes.SHA256()), (folder / "certificate.pem", folder / "key.pem")
    pem, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[0].write_bytes(made.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, plain, serialization.NoEncryption()))
    return files


@pytest.mark.parametrize("scheme", ["https", "rtsps"])
def test_a_certificate_that_nobody_vouches_for_gets_no_password(
    scheme: str, judge: Judge, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path))
    asked, server = list[bytes](), socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                with (
                    contextlib.suppress(ssl.SSLError),
                    context.wrap_socket(server.accept()[0], server_side=True) as one,
                ):
                    asked.append(one.recv(4096))

    threading.Thread(target=answer, daemon=True).start()
    url = f"{scheme}://ada:s3cret@127.0.0.1:{server.getsockname()[1]}/stream"
    with Watching(url, judge, store) as line:
        line.until_said("where nobody vouches for its certificate, name a file with it in SSL_CERT_FILE")
    assert not any(asked)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with Watching(url, judge, store):
        wait_for(lambda: any(asked))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    nothing: Any = None
    none_known = ssl.DefaultVerifyPaths(nothing, nothing, "SSL_CERT_FILE", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none_known)
    with pytest.raises(ValueError, match="name one in SSL_CERT_FILE"):
        place_of(url)
    server.close()


def test_frames_larger_than_images_may_be_are_not_decoded(
    camera: MjpegCamera, judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    camera.on()
    with Watching(camera.url, judge, store) as line:
        line.until_said("no frames come from")
    assert not line.decisions


def test_a_watch_on_a_camera_that_is_gone_ends_when_it_is_asked_to(
    camera: MjpegCamera, judge: Judge, store: Store
) -> None:
    with Watching(camera.url, judge, store) as line:
        line.until_said("Connection refused")
    assert line.summary.verdicts.total() == 0


def test_a_plugged_in_camera_has_one_name_however_it_is_written(
    judge: Judge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert place_of("camera:7") == place_of("/dev/video7")
    assert place_of("camera:7").name == "camera:7"
    with Watching("camera:97", judge, store) as line:
        line.until_said("no frames come from camera:97 (")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="cameras that are plugged in can be read on Linux alone"):
        place_of("camera:7")


@pytest.mark.parametrize("source", ["ftp://h/x", "rtsp://", "rtsp://h:0/x", "rtsp://ada:s3cret@/x", "camera:", "/dev/videoX"])  # fmt: skip
def test_an_address_that_can_not_be_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"is no (address|camera) such as") as caught:
        place_of(source)
    assert "s3cret" not in str(caught.value)
