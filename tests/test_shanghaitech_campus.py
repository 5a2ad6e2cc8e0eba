"""ShanghaiTech Campus's builder over a small drawn copy in the published layout."""

import io
import pickle
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import padim_jax as padim
from padim_jax.data import shanghaitech_layout
from padim_jax.data.examples import list_examples, load_examples
from padim_jax.data.record import RAW
from padim_jax.data.shanghaitech_campus import DISAGREEING, ShanghaiTechCampus
from padim_jax.data.video import UnreadableVideo, count_frames, read_frames
from tests.datasets import campus_frame, write_image, write_shanghaitech, write_video

TRAINING = {"01_001": 12, "01_002": 7, "02_001": 20, "13_001": 9}
TESTING = {"01_0014": 9, "02_0003": 6}
CONFIG = padim.PadimConfig(image_size=48, crop_size=48)


@pytest.fixture
def campus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """4 training and 2 test videos, which count as published."""
    for kind, videos in (("training", TRAINING), ("test", TESTING)):
        monkeypatch.setitem(shanghaitech_layout.PUBLISHED_VIDEOS, kind, len(videos))
    return write_shanghaitech(tmp_path / "campus", TRAINING, TESTING)


def prepared(campus: Path, scene: str = "all", frames_per_fit: int = 24, seed: int = 0) -> Any:  # TFDS hides signatures
    builder = ShanghaiTechCampus(
        folder=campus, data_dir=campus.parent / "prepared", scene=scene, frames_per_fit=frames_per_fit, seed=seed
    )
    builder.download_and_prepare()
    return builder


def test_published_numbers() -> None:
    assert shanghaitech_layout.PUBLISHED_VIDEOS == {"training": 330, "test": 107}
    assert [config.name for config in ShanghaiTechCampus.BUILDER_CONFIGS] == ["all", *(f"{i:02}" for i in range(1, 14))]


def test_training_frames_are_drawn_from_all_videos_and_named(campus: Path) -> None:
    builder = prepared(campus)
    names = [example.file_name for example in list_examples(builder, "train")]
    everything = [f"training/videos/{video}.avi#{index}" for video, count in TRAINING.items() for index in range(count)]
    drawn = np.random.default_rng(0).choice(len(everything), 24, replace=False)
    assert names == [everything[index] for index in sorted(drawn)]
    for example in builder.as_data_source("train", decoders=RAW):
        index = int(example["file_name"].decode().split("#")[1])
        assert example["image"].startswith(b"\x89PNG")
        with Image.open(io.BytesIO(example["image"])) as image:
            assert np.abs(np.asarray(image, int) - campus_frame(index, (64, 48))).mean() < 2  # the next differs by 5
            square = np.asarray(image)[28:36, 24 + index % 16 + 4 :][:, :8]
        assert abs(square.mean() - (20 + 5 * index)) < 2.5
        assert (example["label"], example["defect_type"], example["has_mask"]) == (0, b"good", True)
    assert "tensorflow" not in sys.modules


def test_all_frames_can_be_drawn_and_no_more(campus: Path) -> None:
    assert len(list_examples(prepared(campus, frames_per_fit=48), "train")) == sum(TRAINING.values()) == 48
    with pytest.raises(ValueError, match="frames_per_fit=49, but the training videos of scene all have 48 frames"):
        prepared(campus, frames_per_fit=49)
    with pytest.raises(ValueError, match="frames_per_fit=0, wanted at least 1"):
        prepared(campus, frames_per_fit=0)


def test_test_frames_labels_and_masks(campus: Path) -> None:
    builder = prepared(campus)
    (batch,) = load_examples(builder, "test", padim.PadimConfig(image_size=(48, 64), crop_size=(48, 64)), 32)
    assert batch.file_names == [
        f"testing/frames/{video}/{index:03}.jpg" for video, count in TESTING.items() for index in range(count)
    ]
    np.testing.assert_array_equal(np.flatnonzero(batch.labels), [3, 4, 5, 11, 12])
    assert batch.defect_types == ["abnormal event" if label else "good" for label in batch.labels]
    assert batch.has_mask.all()
    published = np.concatenate([np.load(campus / f"testing/test_pixel_mask/{video}.npy") for video in TESTING])
    np.testing.assert_array_equal(batch.masks, published > 0)
    assert (batch.images[3][6:14, 10:22, 2] < 90).all()  # the event is yellow
    first = builder.as_data_source("test", decoders=RAW)[0]
    assert first["image"] == (campus / "testing/frames/01_0014/000.jpg").read_bytes()
    assert builder.info.metadata[DISAGREEING] == 0


def test_frames_are_ordered_by_number(campus: Path) -> None:
    frames = campus / "testing/frames/01_0014"
    for path in sorted(frames.iterdir()):
        path.rename(frames / f"{int(path.stem) + 995}.jpg")
    names = [example.file_name for example in list_examples(prepared(campus, "01", 5), "test")]
    assert names[3:7] == [f"testing/frames/01_0014/{index}.jpg" for index in (998, 999, 1000, 1001)]


def test_disagreeing_labels_stay_and_are_counted(campus: Path) -> None:
    path = campus / "testing/test_frame_mask/01_0014.npy"
    labels = np.load(path)
    labels[[0, 4]] = 1, 0
    np.save(path, labels)
    builder = prepared(campus, "01", 5)
    found = list_examples(builder, "test")
    assert [example.label for example in found] == labels.astype(bool).tolist()
    assert builder.info.metadata[DISAGREEING] == 2
    again = ShanghaiTechCampus(folder=campus, data_dir=campus.parent / "prepared", scene="01", frames_per_fit=5)
    assert again.info.metadata == {DISAGREEING: 2}


def test_scenes_stand_alone_and_the_last_has_no_test(campus: Path) -> None:
    one = prepared(campus, "01", 19)
    assert one.info.full_name == "shanghaitech_campus/01/1.0.0"
    assert {name: split.num_examples for name, split in one.info.splits.items()} == {"train": 19, "test": 9}
    assert {example.file_name[16:18] for example in list_examples(one, "train")} == {"01"}
    last = prepared(campus, "13", 9)
    assert list(last.info.splits) == ["train"]
    with pytest.raises(ValueError, match=r"shanghaitech_campus/13/1\.0\.0 has no split 'test'; it has train"):
        load_examples(last, "test", CONFIG, 4)
    with pytest.raises(ValueError, match=r"no training videos of scene='03'\. ShanghaiTech Campus is not downloaded"):
        prepared(campus, "03")
    with pytest.raises(ValueError, match=r"scene='14', wanted one of all, 01, .*, 13"):
        prepared(campus, "14")


def test_settings_and_changes_prepare_anew(campus: Path) -> None:
    names = [example.file_name for example in list_examples(prepared(campus, "02", 8), "train")]
    assert names != [example.file_name for example in list_examples(prepared(campus, "02", 8, seed=1), "train")]
    assert len(list_examples(prepared(campus, "02", 9), "train")) == 9
    write_video(campus / "training/videos/02_001.avi", [campus_frame(i, (64, 48)) for i in range(8)])
    assert len(list_examples(prepared(campus, "02", 8), "train")) == 8
    assert [example.file_name[-2:] for example in list_examples(prepared(campus, "02", 8), "train")] == [
        f"#{i}" for i in range(8)
    ]


def test_a_missing_set_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training videos of scene='all'") as caught:
        ShanghaiTechCampus(folder=tmp_path, data_dir=tmp_path / "prepared")
    for words in ("https://svip-lab.github.io/dataset/campus_dataset.html", "for research use", f"so that {tmp_path} holds",
                  "training/videos/01_001.avi", "testing/frames/01_0014/000.jpg", "testing/test_pixel_mask/01_0014.npy"):  # fmt: skip
        assert words in str(caught.value)


def spoil_pickle(path: Path) -> None:
    np.save(path, np.array([1, None], dtype=object), allow_pickle=True)


def spoil_pixels(path: Path) -> None:
    np.save(path, np.load(path)[:, :40])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: (c / "training/videos/02_001.avi").unlink(), "training: 4 published, 3 found; test: 2 published, 2 found"),
        (lambda c: (c / "testing/frames/02_0003").rename(c / "gone"), "test: 2 published, 1 found"),
        (lambda c: (c / "testing/test_pixel_mask/02_0003.npy").unlink(), r"missing masks: testing/test_pixel_mask/02_0003\.npy\. Shang"),
        (lambda c: np.save(c / "testing/test_frame_mask/02_0009.npy", [0]), r"masks without frames: testing/test_frame_mask/02_0009\.npy"),
        (lambda c: (c / "testing/frames/02_0003/005.jpg").unlink(), r"02_0003 has 5 frames, 6 labels in .* and 6 masks in"),
        (lambda c: np.save(c / "testing/test_frame_mask/02_0003.npy", [0] * 5), r"6 frames, 5 labels in .*02_0003\.npy and 6 masks"),
        (lambda c: (c / "testing/frames/02_0003/002.jpg").rename(c / "testing/frames/02_0003/007.jpg"), "not numbered without gaps"),
        (lambda c: np.save(c / "testing/test_frame_mask/02_0003.npy", [0, 1, 2] * 2), "other labels than 0"),
        (lambda c: np.save(c / "testing/test_frame_mask/02_0003.npy", np.zeros((6, 1))), r"holds float64 \(6, 1\), wanted numbers in 1"),
        (lambda c: spoil_pixels(c / "testing/test_pixel_mask/02_0003.npy"), r"\(64, 40\), the frame .*02_0003/000\.jpg \(64, 48\)"),
        (lambda c: spoil_pickle(c / "testing/test_frame_mask/02_0003.npy"), "is no array of numbers as published: .*Python objects"),
        (lambda c: (c / "testing/test_frame_mask/02_0003.npy").write_bytes(b""), "is no array of numbers as published"),
    ],
)  # fmt: skip
def test_a_spoilt_copy_is_named(campus: Path, spoil: Any, words: str) -> None:
    spoil(campus)
    with pytest.raises(ValueError, match=words):
        prepared(campus)


def test_a_scene_that_lost_its_test_videos(campus: Path) -> None:
    (campus / "testing/frames/02_0003").rename(campus / "gone")
    with pytest.raises(ValueError, match="no test videos of scene 02"):
        prepared(campus, "02")


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("a pickle was run",)


@pytest.mark.parametrize("whole", [False, True])
def test_pickles_are_not_run(campus: Path, whole: bool) -> None:
    path = campus / "testing/test_pixel_mask/02_0003.npy"
    if whole:
        path.write_bytes(pickle.dumps(Trap()))
    else:
        np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is no array of numbers as published"):
        prepared(campus)


def test_without_pyav(campus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'padim-jax\[video\]'"):
        prepared(campus)


@pytest.mark.parametrize(("codec", "options"), [("mpeg4", {}), ("mpeg4", {"bf": "2"}), ("mjpeg", {})])
@pytest.mark.parametrize("promised", [None, 9, 50])
def test_frames_are_counted_whatever_the_header_says(
    tmp_path: Path, codec: str, options: dict[str, str], promised: int | None
) -> None:
    path = write_video(tmp_path / "a.avi", [campus_frame(i, (64, 48)) for i in range(40)], codec, **options)
    if promised is not None:
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, promised)
        path.write_bytes(content)
    assert count_frames(path) == 40
    for index, frame in zip((0, 17, 39), read_frames(path, [0, 17, 39]), strict=True):
        assert abs(np.asarray(frame)[28:36, 28 + index % 16 : 36 + index % 16].mean() - (20 + 5 * index)) < 2.5


def test_packets_without_a_picture_are_not_counted(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.avi", [campus_frame(i, (64, 48)) for i in range(30)])
    with av.open(str(plain)) as source, av.open(str(tmp_path / "dropped.avi"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        packets.insert(20, bytes.fromhex("000001b650cf"))  # an MPEG-4 VOP that says "not coded", as XviD drops frames
        for index, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 24)
            packet.is_keyframe = index == 0
            target.mux(packet)
    with av.open(str(tmp_path / "dropped.avi")) as container:
        assert container.streams.video[0].frames == 31
    assert count_frames(tmp_path / "dropped.avi") == len(list(read_frames(tmp_path / "dropped.avi", range(30)))) == 30


def test_unreadable_videos_are_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", [campus_frame(i, (64, 48)) for i in range(4)])
    assert list(read_frames(path, [])) == []
    with pytest.raises(UnreadableVideo, match=r"a\.avi: it has 4 frames, wanted frame 4, counted from 0"):
        list(read_frames(path, [1, 4]))
    path.write_bytes(b"no video")
    for read in (count_frames, lambda path: list(read_frames(path, [0]))):
        with pytest.raises(UnreadableVideo, match=r"can't read .*a\.avi") as caught:
            read(path)
        assert caught.value.path == path


def test_an_image_is_no_test_frame_of_another_size(campus: Path) -> None:
    write_image(campus / "testing/frames/02_0003/004.jpg", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(64, 48\), the frame .*004\.jpg \(64, 32\)"):
        prepared(campus)
