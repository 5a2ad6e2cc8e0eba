"""A video as the source of a watch: its frames are decided once each, whatever happens."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.data.video import UnreadableVideo, decode_frames
from padim_jax.line.frames import Frames
from padim_jax.line.judge import Judge
from padim_jax.line.outputs.bad_folder import BadFolder
from padim_jax.line.outputs.output import Output
from padim_jax.line.records import Decision
from padim_jax.line.sources.trigger import AtRest, Every, Trigger
from padim_jax.line.sources.video import Video, frame_number
from padim_jax.line.store import Store
from padim_jax.line.verdict import Rates
from padim_jax.line.watch import Limits, Summary, watch_line
from tests.line_parts import fit_model, open_judge, parts, write_frames
from tests.test_cli import run

RATES = Rates(None, 0.2)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_model(tmp_path_factory.mktemp("line") / "bracket")


@pytest.fixture(scope="module")
def judge(model: Path) -> Judge:
    return open_judge(model)


@dataclass
class Watched:
    """What came of a watch."""

    summary: Summary
    fresh: list[Decision]
    remarks: list[str]


def watch(
    path: Path, judge: Judge, *outputs: Output, trigger: Trigger | None = None, stop_after: int | None = None
) -> Watched:
    fresh, remarks = list[Decision](), list[str]()
    with Store.open(path.with_suffix(".db")) as store:
        source = Video(path, store.seen, trigger or Every(), model=judge.current.name, remark=remarks.append)
        summary = watch_line(
            source,
            judge,
            store,
            outputs,
            limits=Limits(queue=4),
            remark=remarks.append,
            told=fresh.append,
            stopped=lambda: stop_after is not None and len(fresh) >= stop_after,
        )
    return Watched(summary, fresh, remarks)


def test_every_frame_is_decided_once_as_an_image_file_would_be(tmp_path: Path, judge: Judge) -> None:
    frames = np.concatenate([parts(6, seed=5), parts(2, seed=6, defect=True)])
    frames[3] = frames[2]  # nothing moved: another frame all the same
    found = watch(write_frames(tmp_path / "a.mkv", frames), judge)
    assert [one.item for one in found.fresh] == [f"frame-{n:06}-{n * 0.04:.3f}s" for n in range(8)]
    assert {one.source for one in found.fresh} == {str(tmp_path / "a.mkv")}
    expected = padim.score(judge.current.model, frames)
    np.testing.assert_allclose([one.score for one in found.fresh], expected.image_score, rtol=1e-5)  # type: ignore[arg-type]
    assert [one.verdict for one in found.fresh[-2:]] == ["bad", "bad"]
    assert len({one.image_digest for one in found.fresh}) == 7
    again = watch(tmp_path / "a.mkv", judge)
    assert (again.summary.verdicts.total(), again.summary.known) == (0, 0)  # known without being judged


def test_a_watch_that_was_stopped_goes_on_with_the_same_frames(tmp_path: Path, judge: Judge) -> None:
    path = write_frames(tmp_path / "a.mkv", parts(30, seed=5))
    first = watch(path, judge, trigger=Every(0.08), stop_after=3)
    rest = watch(path, judge, trigger=Every(0.08))
    items = [one.item for one in (*first.fresh, *rest.fresh)]
    assert 3 <= len(first.fresh) < 15
    assert [frame_number(item) for item in items] == [*range(0, 30, 2)]
    more = watch(path, judge)  # all of them: those that have a decision keep it
    assert [frame_number(one.item) for one in more.fresh] == [*range(1, 30, 2)]


def test_a_video_that_grew_is_judged_from_where_it_was(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, judged = parts(8, seed=5), list[str]()
    write_frames(tmp_path / "a.mkv", frames[:5])
    watch(tmp_path / "a.mkv", judge)
    write_frames(tmp_path / "a.mkv", frames)
    begin = judge.begin
    monkeypatch.setattr(judge, "begin", lambda photos: (judged.extend(one.item for one in photos), begin(photos))[1])
    grown = watch(tmp_path / "a.mkv", judge)
    assert [frame_number(one.item) for one in grown.fresh] == [5, 6, 7]
    assert judged == [one.item for one in grown.fresh]  # the others are known without being judged once more
    write_frames(tmp_path / "a.mkv", np.concatenate([frames[:2], parts(1, seed=6), frames[3:]]))  # another frame 2
    assert [frame_number(one.item) for one in watch(tmp_path / "a.mkv", judge).fresh] == [2]


def test_another_model_decides_on_the_same_frames_too(tmp_path: Path, judge: Judge) -> None:
    path = write_frames(tmp_path / "a.mkv", parts(4, seed=5))
    watch(path, judge)
    fit_model(tmp_path / "other", seed=1)
    again = watch(path, Judge(tmp_path / "other", RATES, batch_size=4))
    assert [frame_number(one.item) for one in again.fresh] == [0, 1, 2, 3]
    assert {one.model for one in again.fresh} == {"other"}


def test_what_retention_deleted_is_not_decided_again(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("padim_jax.line.retention.NEWEST", 0)
    path = write_frames(tmp_path / "a.mkv", parts(5, seed=5))
    watch(path, judge)
    with Store.open(path.with_suffix(".db"), clock=lambda: 9e9) as store:
        assert store.retain(max_seconds=1).deleted == 5
    assert watch(path, judge).summary.verdicts.total() == 0


def test_frames_at_any_distance_are_chosen_by_their_time(tmp_path: Path, judge: Judge) -> None:
    times = [1000, 1040, 1080, 2500, 2510, 2990, 7000]  # ms; the first one is no 0
    found = watch(write_frames(tmp_path / "a.mkv", parts(7, seed=5), times), judge, trigger=Every(0.5))
    assert [one.item for one in found.fresh] == ["frame-000000-0.000s", "frame-000003-1.500s", "frame-000006-6.000s"]


def test_one_frame_of_each_part_that_lies_still_is_decided(tmp_path: Path, judge: Judge) -> None:
    belt, part = np.full((32, 48, 3), 90, np.uint8), parts(1, seed=5)[0]
    moving = [np.roll(part, shift, axis=1) for shift in range(-24, 0, 6)]
    frames = [*[belt] * 12, *moving, *[part] * 25, *moving[::-1], *[belt] * 12, *moving, *[part] * 12]
    write_frames(tmp_path / "a.mkv", np.stack(frames))
    trigger = AtRest(empty=np.full((24, 32, 3), 90, np.float32))
    found = watch(tmp_path / "a.mkv", judge, trigger=trigger)
    assert [frame_number(one.item) for one in found.fresh] == [16 + 8, 16 + 25 + 4 + 12 + 4 + 8]
    assert len({one.score for one in found.fresh}) == 1


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_the_bad_folder_has_the_frames_as_png_also_those_of_a_process_that_died(tmp_path: Path, judge: Judge) -> None:
    frames = np.concatenate([parts(3, seed=5), parts(2, seed=6, defect=True)])
    path = write_frames(tmp_path / "a.mkv", frames)
    folder = BadFolder(tmp_path / "bad", judge)
    bad = [one for one in watch(path, judge, folder).fresh if one.verdict == "bad"]
    copies, drawn = (sorted(place.glob("*.png")) for place in (tmp_path / "bad", tmp_path / "bad" / "pictures"))
    assert len(bad) == len(copies) == len(drawn) >= 2
    for copy, decision in zip(copies, bad, strict=True):
        np.testing.assert_array_equal(pixels_of(copy), frames[frame_number(decision.item) or 0])
        assert decision.item in copy.name
    pictures = [pixels_of(one) for one in drawn]
    shutil.rmtree(tmp_path / "bad")
    late = BadFolder(tmp_path / "bad", judge)
    for decision in bad:
        late.deliver(decision, 2)  # no picture in memory
    assert sorted(tmp_path.glob("bad/*.png")) == copies
    for before, after in zip(pictures, sorted(tmp_path.glob("bad/pictures/*.png")), strict=True):
        assert np.abs(before - pixels_of(after)).max() <= 2
    said = list[str]()
    write_frames(path, parts(5, seed=9))  # another video by now
    BadFolder(tmp_path / "bad", judge, said.append).deliver(bad[0], 3)
    path.unlink()
    BadFolder(tmp_path / "bad", judge, said.append).deliver(bad[0], 4)
    assert "holds another image by now; it is not kept" in said[0]
    assert "can't read" in said[1]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The video of each pass in which frames are read again."""
    begun = list[Path]()

    def counted(path: Path) -> Iterator[tuple[float, Any]]:
        begun.append(path)
        return decode_frames(path)

    monkeypatch.setattr("padim_jax.line.frames.decode_frames", counted)
    return begun


def test_frames_that_wait_after_a_death_are_read_in_one_pass(
    tmp_path: Path, judge: Judge, passes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*given: object) -> None:
        raise OSError("killed")

    frames, folder = parts(70, seed=6, defect=True), BadFolder(tmp_path / "bad", judge)
    path = write_frames(tmp_path / "a.mkv", frames)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "deliver", die)
        bad = [one for one in watch(path, judge, folder).fresh if one.verdict == "bad"]
    assert len(bad) > 64  # more than are handed on at a time
    assert not watch(path, judge, BadFolder(tmp_path / "bad", judge)).fresh
    assert len(passes) == 1
    copies = sorted((tmp_path / "bad").glob("*.png"))
    assert len(copies) == len(bad) == len(list(tmp_path.glob("bad/pictures/*.png")))
    for copy, decision in zip(copies, bad, strict=True):
        np.testing.assert_array_equal(pixels_of(copy), frames[frame_number(decision.item) or 0])


def test_only_a_frame_before_the_last_one_takes_another_pass(tmp_path: Path, passes: list[Path]) -> None:
    pixels = parts(8, seed=5)
    path, frames = write_frames(tmp_path / "a.mkv", pixels), Frames()
    for number, count in ((2, 1), (5, 1), (5, 1), (3, 2), (7, 2)):
        np.testing.assert_array_equal(frames.read(path, number), pixels[number])
        assert len(passes) == count


def test_a_video_that_has_become_shorter_is_looked_through_once(tmp_path: Path, passes: list[Path]) -> None:
    path = write_frames(tmp_path / "a.mkv", parts(3, seed=5))
    frames = Frames()
    for number in (4, 5, 6):
        with pytest.raises(UnreadableVideo, match=f"it has 3 frames, wanted frame {number}, counted from 0"):
            frames.read(path, number)
    assert len(passes) == 1
    np.testing.assert_array_equal(frames.read(path, 2), parts(3, seed=5)[2])  # the last one is still in hand
    write_frames(path, parts(6, seed=7))
    np.testing.assert_array_equal(frames.read(path, 4), parts(6, seed=7)[4])
    assert len(passes) == 2


# files that are no videos, or not whole


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_a_video_that_was_cut_short_is_judged_to_its_end_and_said(tmp_path: Path, judge: Judge, kind: str) -> None:
    whole = write_frames(tmp_path / f"whole.{kind}", parts(60, seed=5)).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
    remarks = list[str]()
    with Store.open(tmp_path / "line.db") as store:
        source = Video(tmp_path / f"cut.{kind}", store.seen, Every(), remark=remarks.append)
        try:
            watch_line(source, judge, store)
        except UnreadableVideo as error:  # the last frame is there in part
            remarks.append(str(error))
        count = sum(store.count().values())
    assert 20 < count < 40
    last = f"the last of {count} frames is at {0.04 * (count - 1):.3f} s, its header announces 2.400 s"
    assert any(f"cut.{kind}: {last}; it may be cut short" in said or "damaged after" in said for said in remarks)
    assert not watch(tmp_path / f"whole.{kind}", judge).remarks


def test_a_video_that_is_damaged_further_on_keeps_what_came_before(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_frames(tmp_path / "a.mkv", parts(6, seed=5))

    def damaged(of: Path):  # type: ignore[no-untyped-def]
        for number, entry in enumerate(decode_frames(of)):
            if number == 4:
                raise UnreadableVideo(of, "Invalid data")
            yield entry

    monkeypatch.setattr("padim_jax.line.sources.video.decode_frames", damaged)
    with pytest.raises(UnreadableVideo, match=r"a\.mkv: damaged after 4 frames: Invalid data"):
        watch(path, judge)
    with Store.open(path.with_suffix(".db")) as store:
        assert len(list(store.decisions())) == 4


def test_what_is_no_video_is_refused_in_words(tmp_path: Path, judge: Judge) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableVideo, match=r"text\.mp4: Invalid data found"):
        watch(tmp_path / "text.mp4", judge)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]
    with pytest.raises(UnreadableVideo, match="it has no video stream"):
        watch(tmp_path / "sound.wav", judge)
    whole = write_frames(tmp_path / "whole.avi", parts(1)).read_bytes()
    (tmp_path / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(UnreadableVideo, match=r"none\.avi: (it holds no frames|Invalid data)"):
        watch(tmp_path / "none.avi", judge)


def test_frames_larger_than_images_may_be_are_refused(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frames(tmp_path / "a.avi", np.zeros((2, 300, 400, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(UnreadableVideo, match=r"a\.avi: its frames have no size, or more than 0 megapixels; scale"):
        watch(tmp_path / "a.avi", judge)
    with pytest.raises(UnreadableVideo, match="megapixels"):
        next(decode_frames(tmp_path / "a.avi"))


def test_a_playlist_in_a_video_reads_nothing_over_the_network(tmp_path: Path, judge: Judge) -> None:
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(lines)
    with pytest.raises(UnreadableVideo):
        watch(tmp_path / "a.m3u8", judge)


# the command


def test_the_command_takes_a_video_and_says_what_of_it_failed(model: Path, tmp_path: Path, capsys: Capture) -> None:
    write_frames(tmp_path / "a.mkv", parts(6, seed=5))
    command = ("watch", tmp_path / "a.mkv", "--model", model, "--store", tmp_path / "l.db", "--look-rate", 0.2)
    code, out, err = run(capsys, *command, "--every", 0.1, "--batch-size", 4)
    assert (code, len(out.splitlines())) == (0, 3 + 1)
    assert f"ready: {tmp_path / 'a.mkv'} is judged" in err
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[:100])
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "can't read" in err


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("a.mkv", ("--once",), "--once and --poll are of a folder; this source ends by itself"),
        ("rtsp://h/s", ("--poll", 1), "--once and --poll are of a folder; a camera has no end"),
        (".", ("--every", 1), "--every: of a video or a camera; elsewhere each image is judged"),
        ("-", ("--on-motion",), "--on-motion: of a video or a camera"),
        ("a.mkv", ("--on-motion", "--every", 1), "--every and --on-motion: choose one"),
        ("a.mkv", ("--still", 1), "--still: of --on-motion, which is not given"),
        ("rtsp://h/s", ("--when-full", "wait"), "a camera does not wait"),
        ("rtps://ada:s3cret@h/s", (), "camera 'rtps://h/s' is no address such as rtsp://host/stream"),
        ("camera:x", (), "'camera:x' is no camera such as camera:0"),
        ("one.png", (), "is one image, wanted a folder, a video"),
    ],
)
def test_what_a_source_has_no_use_for_is_refused(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, source: str, options: tuple[object, ...], said: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "a.mkv", parts(1))
    Image.fromarray(parts(1)[0]).save(tmp_path / "one.png")
    code, _, err = run(capsys, "watch", source, "--model", model, "--store", "l.db", "--look-rate", 0.2, *options)
    assert code == 2
    assert said in err
    assert "s3cret" not in err
