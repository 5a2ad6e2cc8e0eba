"""Pickles that would end the interpreter, fill memory or take for ever are refused in words, in both formats."""

import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import torch_files
from weights_conversion import CheckpointError, read_checkpoint

ENTRY = b"X\x01\x00\x00\x00a"
ORDERED = b"ccollections\nOrderedDict\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _nested(levels: int, value: bytes = b")") -> bytes:
    return value + b"\x85" * levels


# ways to build depth: what is pushed, with or without marks and the memo
DEEP = {
    "tuple": lambda n: _nested(n),
    "tuple by marks": lambda n: b"(" * n + b")" + b"t" * n,
    "pair": lambda n: b")" + b")\x86" * n,
    "list": lambda n: b"]" * n + b"a" * (n - 1),
    "dict": lambda n: (b"}" + ENTRY) * n + b"N" + b"s" * n,
    "list by the memo": lambda n: b"]" + b"".join(b"r%b]" % (7).to_bytes(4, "little") + b"h\x07a" for _ in range(n)),
    "ordered": lambda n: (ORDERED + b")R" + ENTRY) * n + b"N" + b"s" * n,
}
USES = {
    "key": lambda deep: b"}" + deep + b"K\x01s",
    "key after a mark": lambda deep: b"}(" + deep + b"K\x01u",
    "value": lambda deep: b"}" + ENTRY + deep + b"s",
    "argument": lambda deep: ORDERED + deep + b"\x85R",
    "pair's key": lambda deep: ORDERED + b"]]" + deep + b"aK\x01aa\x85R",
    "state": lambda deep: ORDERED + b")R" + deep + b"b",
    "state's key": lambda deep: ORDERED + b")R}" + deep + b"K\x01sb",
    "storage": lambda deep: deep + b"Q",
    "tensor's shape": lambda deep: TENSOR + b"(K\x00K\x00" + deep + b"K\x01\x85tR",
    "whole": lambda deep: deep,
}


def legacy(pickled: bytes, place: int = 3) -> bytes:
    """The older format with one of its five pickles replaced."""
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, [])]
    return b"".join([*parts[:place], pickled, *parts[place + 1 :]])


def test_deep_nesting_ends_in_words_whatever_it_is_made_of_and_used_for(tmp_path: Path) -> None:
    """In a process of its own: what hashes a deep tuple does not fail, it ends the interpreter."""
    for deep, make in DEEP.items():
        for use, wrap in USES.items():
            for levels in (2000, 300_000) if (deep, use) == ("tuple", "key") else (2000,):
                pickled = b"\x80\x02" + wrap(make(levels)) + b"."
                name = f"{deep} {use} {levels}"
                (tmp_path / f"{name} zip.pth").write_bytes(torch_files.zip_of(pickled, {}))
                (tmp_path / f"{name} legacy.pth").write_bytes(legacy(pickled))
                (tmp_path / f"{name} keys.pth").write_bytes(legacy(pickled, place=4))
                (tmp_path / f"{name} system.pth").write_bytes(legacy(pickled, place=2))
    code = """if True:
        import sys, pathlib
        from weights_conversion import CheckpointError, read_checkpoint
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            print(path.name, flush=True)
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                assert str(path) in str(error) and len(str(error)) < 1000, error
            else:
                raise AssertionError
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-200:], done.stderr[-600:])
    assert len(done.stdout.splitlines()) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("wrap", [lambda p: torch_files.zip_of(p, {}), legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"}" + _nested(3) + b"K\x01s", "has a value of type tuple as a key; those of a state dict are text"),
        (b"}NK\x01s", "has a value of type NoneType as a key"),
        (b"}\x8a\x09" + (2**61).to_bytes(9, "little") + b"K\x01s", "has a large number as a key"),
        (ORDERED + b"]]" + b")aK\x01aa\x85R", "has a value of type tuple as a key"),
        (ORDERED + b"K\x01\x85R", "of something other than pairs in a list"),
        (ORDERED + b"]]K\x01aa\x85R", "of something other than pairs in a list"),
        (ORDERED + b")R)b", "sets the state of what has none"),
        (b"ctorch\nFloatStorage\n)R", "calls FloatStorage, which a state dict never does"),
        (TENSOR + b")R", "a tensor record is malformed"),
        (b")Q", "a storage record is malformed"),
        (b"N" * 2**21, "has more than 1048576 instructions"),
        (b"(" + b"\x85", "damaged"),
    ],
)
def test_what_a_state_dict_does_not_need_is_refused(tmp_path: Path, wrap, pickled: bytes, words: str) -> None:
    (tmp_path / "x.pth").write_bytes(wrap(b"\x80\x02" + pickled + b"."))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / "x.pth")


def test_a_checkpoint_of_a_training_run_is_still_told_what_to_save(tmp_path: Path) -> None:
    whole = {"epoch": 3, "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"betas": (0.9, 0.999)}]}}
    (tmp_path / "x.pth").write_bytes(torch_files.zip_of(pickle.dumps(whole, protocol=2), {}))
    with pytest.raises(CheckpointError, match="entry 'epoch' is no tensor \\(save the inner state dict alone\\)"):
        read_checkpoint(tmp_path / "x.pth")


def test_items_may_come_as_python_2_wrote_them(tmp_path: Path) -> None:
    pickled, storages = torch_files._pickle({"a": np.arange(3, dtype=np.float32)}, legacy=False)
    at = pickled.index(b"X\x01\x00\x00\x00a")
    inner = pickled[at:].removesuffix(b"s.")
    (tmp_path / "x.pth").write_bytes(
        torch_files.zip_of(b"\x80\x02" + ORDERED + b"q\x00](](" + inner + b"ee\x85R}b.", storages)
    )
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x.pth")["a"], np.arange(3, dtype=np.float32))


def test_a_storage_is_not_read_again_and_again(tmp_path: Path) -> None:
    """Thousands of small views of two large storages in turn would take minutes; of one storage they are read once."""
    large = {str(key): np.zeros(2**21, np.float32) for key in range(2)}

    def views(count: int, keys: int) -> bytes:
        _, storages = torch_files._pickle(large, legacy=False)
        names = {f"v{index}": torch_files._Storage(str(index % keys), storages["0"]) for index in range(count)}
        record = {name: torch_files._Tensor(storage, large["0"][:4]) for name, storage in names.items()}
        with torch_files._fake_modules():
            stream = io.BytesIO()
            torch_files._Pickler(stream, protocol=2).dump(record)
        return torch_files.zip_of(stream.getvalue(), storages)

    (tmp_path / "x.pth").write_bytes(views(2000, 2))
    (tmp_path / "y.pth").write_bytes(views(2000, 1))
    begin = time.perf_counter()
    with pytest.raises(CheckpointError, match="share storages so often"):
        read_checkpoint(tmp_path / "x.pth")
    assert len(read_checkpoint(tmp_path / "y.pth")) == 2000
    assert time.perf_counter() - begin < 20


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="is a pipe or device"):
        read_checkpoint(tmp_path / "x.pth")
