"""A video that a recorder still writes: no frame is judged before it is whole, and none twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from padim_jax.data.video import UnreadableVideo, decode_frames
from padim_jax.line.judge import Judge, Photo
from padim_jax.line.store import Store
from tests.line_parts import fit_model, open_judge, parts
from tests.test_line_video import watch


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return open_judge(fit_model(tmp_path_factory.mktemp("line") / "bracket"))


def write_recording(path: Path, frames: np.ndarray) -> Path:
    """Write frames as a recorder does: compressed, each from those before it."""
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("mpeg4", rate=25))
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], "yuv420p", 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path


def is_torn(path: Path, content: bytes) -> bool:
    """Write a file; whether it is one of which the last frame is decoded otherwise once the rest is there."""
    path.write_bytes(content)
    return any(frame.is_corrupt for _, frame in decode_frames(path))


def digest_of_frame(frame: Any) -> str:
    return Photo("", "", Path(), pixels=frame.to_ndarray(format="rgb24")).digest


@pytest.mark.slow
@pytest.mark.parametrize("is_written", [True, False])
def test_what_is_not_whole_yet_of_a_file_that_a_recorder_writes_is_left_until_it_is(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    whole = write_recording(tmp_path / "whole.ts", parts(60, seed=5))
    content, path = whole.read_bytes(), tmp_path / "a.ts"
    expected = [digest_of_frame(frame) for _, frame in decode_frames(whole)]
    torn = next(end for end in range(len(content) * 2 // 3, len(content), 188) if is_torn(path, content[:end]))

    def growing(of: Path) -> Iterator[tuple[float, Any]]:
        yield from decode_frames(of)
        of.write_bytes(content[: torn + 1])

    if is_written:
        with monkeypatch.context() as patch:
            patch.setattr("padim_jax.line.sources.video.decode_frames", growing)
            first = watch(path, judge)
        (said,) = first.remarks
        assert "a.ts was changed while it was read, judged up to " in said
        assert said.endswith("; the same command goes on from there")
        fresh = first.fresh
    else:
        with pytest.raises(UnreadableVideo, match=r"a\.ts: damaged after [0-9]+ frames: its end is torn"):
            watch(path, judge)
        with Store.open(path.with_suffix(".db")) as store:
            fresh = list(store.decisions())
    assert 20 < len(fresh) < 60
    path.write_bytes(content)
    rest = watch(path, judge)
    assert not rest.remarks
    assert [one.image_digest for one in (*fresh, *rest.fresh)] == expected
