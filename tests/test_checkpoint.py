"""Reading checkpoints: right values, and hostile files refused with nothing run."""

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from padim_jax.backbones import BACKBONES
from padim_jax.backbones import weights as weights_module
from tests import torch_files
from tests.conftest import packaged_weights
from weights_conversion import CheckpointError, convert, flatten, read_checkpoint
from weights_conversion.names import table

STATE = OrderedDict(
    a=np.arange(6, dtype=np.float32).reshape(2, 3),
    b=np.array(2.5),
    c=np.array([1, 2, 3], np.float16),
    d=np.array(7, np.int64),
)


@pytest.mark.parametrize("write", [torch_files.zip_format, torch_files.legacy_format, safetensors.numpy.save])
def test_reads_every_format(tmp_path: Path, write) -> None:
    path = tmp_path / "weights.bin"  # the content tells the format, not the ending
    path.write_bytes(write(dict(STATE)))
    found = read_checkpoint(path)
    assert found.keys() == STATE.keys()
    for name, array in STATE.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_widens_exactly(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 0.15625], np.float32)
    raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + raw)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x")["x"], values)


@pytest.mark.parametrize(("name", "entries"), [("efficientnet_lite0", 296), ("efficientnet_lite2", 386)])
def test_reads_the_legacy_files_of_packages(name: str, entries: int) -> None:
    package = BACKBONES[name].package
    assert package is not None
    found = read_checkpoint(packaged_weights(name), package.sha256)
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert len(found) == entries


class _Runs:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "wrap", [lambda p: torch_files.zip_of(p, {}), lambda p: _legacy_around(p)], ids=["zip", "legacy"]
)
def test_crafted_pickle_runs_nothing(tmp_path: Path, wrap) -> None:
    trap = tmp_path / "trap"
    pickled = pickle.dumps({"a": _Runs(os.mkdir, str(trap))}, protocol=2)
    (tmp_path / "evil.pth").write_bytes(wrap(pickled))
    with pytest.raises(CheckpointError, match=r"evil\.pth.*pickled (posix|nt)\.mkdir.*nothing was executed"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not trap.exists()


def _legacy_around(pickled: bytes) -> bytes:
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(parts) + pickled + pickle.dumps([], protocol=2)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "builtins.eval"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01s\x86b.", "damaged"),  # sets attributes
        (b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__init__K\x01s\x86b.", "damaged"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "far beyond"),  # would allocate 32 GB of memo
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02(iposix\nsystem\n.", "INST"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x80\x02]q\x00.", "no state dict"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "entry 'a' is no tensor"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02}" + b"K\x01\x85q\x00" + b"h\x00h\x00\x86K\x01s.", "uses a tuple twice"),
        (b"", "damaged"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path: Path, pickled: bytes, words: str) -> None:
    (tmp_path / "x.pth").write_bytes(torch_files.zip_of(pickled, {}))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("shape", "strides", "words"),
    [
        ((0, 2**63), (1, 1), "can't be used"),
        ((1,) * 70, (0,) * 70, "can't be used"),
        ((1,), (2**63,), "can't be used"),
        ((4,), (1,), "beyond"),
        ((10**6, 10**6), (0, 0), "fill memory"),
        ((2,), (-1,), "malformed"),
        ((2, 2), (1,), "strides"),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path: Path, shape, strides, words: str) -> None:
    _, storages = torch_files._pickle({"a": np.zeros(3, np.float32)}, legacy=False)
    with torch_files._fake_modules():
        tensor = torch_files._Tensor(torch_files._Storage("0", storages["0"]), storages["0"])
        record = (torch_files._rebuild_tensor_v2, (tensor.storage, 0, shape, strides, False, OrderedDict()))
        tensor_type = type("T", (), {"__reduce__": lambda self: record})
        stream = io.BytesIO()
        torch_files._Pickler(stream, protocol=2).dump({"a": tensor_type()})
    (tmp_path / "x.pth").write_bytes(torch_files.zip_of(stream.getvalue(), storages))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / "x.pth")


def _tensor_pickle(state: str = "") -> bytes:
    """A tensor of 3 floats, and a BUILD opcode that would set its state."""
    text = (
        "80 02 7d 58 01000000 61 63" + b"torch._utils\n_rebuild_tensor_v2\n".hex() + "28 28 58 07000000" + b"storage".hex()
        + "63" + b"torch\nFloatStorage\n".hex() + "58 01000000 30 58 03000000" + b"cpu".hex() + "4b 03 74 51"
        + "4b 00 4b 03 85 4b 01 85 89 63" + b"collections\nOrderedDict\n".hex() + "29 52 74 52" + state + "73 2e"
    )  # fmt: skip
    return bytes.fromhex(text)


def test_records_accept_no_state(tmp_path: Path) -> None:
    storages = {"0": np.arange(3, dtype=np.float32)}
    (tmp_path / "x.pth").write_bytes(torch_files.zip_of(_tensor_pickle(), storages))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "x.pth")["a"], storages["0"])
    # strides that reach backwards in memory, set behind the check's back: [storage, 2, (3,), (-1,)]
    state = "5d 28 4b 00 4b 02 4b 03 85 4a ffffffff 85 65 62"
    (tmp_path / "y.pth").write_bytes(torch_files.zip_of(_tensor_pickle(state), storages))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "y.pth")


def test_aliases_do_not_fill_memory(tmp_path: Path) -> None:
    one = np.zeros(1000, np.float32)
    pickled, storages = torch_files._pickle(dict.fromkeys(map(str, range(40)), one), legacy=False)
    shared = torch_files.zip_of(pickled, {"0": one, **dict.fromkeys(list(storages)[1:], one[:0])})
    (tmp_path / "x.pth").write_bytes(shared)
    with pytest.raises(CheckpointError, match=r"holds 0 elements|fill memory"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("write", [torch_files.zip_format, torch_files.legacy_format, safetensors.numpy.save])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_truncated_files_are_refused(tmp_path: Path, write, keep: float) -> None:
    data = write(dict(STATE))
    (tmp_path / "x.pth").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")


def test_flipped_byte_in_a_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(torch_files.zip_format({"a": np.full(64, 3.0, np.float32)}))
    data[data.index(np.float32(3).tobytes() * 8)] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path / "x.pth")


def test_compressed_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(torch_files.zip_format(STATE, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n", b"PK\x03\x04junk"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")


def test_digest(tmp_path: Path) -> None:
    data = torch_files.zip_format(STATE)
    (tmp_path / "x.pth").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert read_checkpoint(tmp_path / "x.pth", digest[:8]).keys() == STATE.keys()
    wrong = "0" * 8 if not digest.startswith("0") else "f" * 8
    with pytest.raises(CheckpointError, match=f"SHA-256 {digest}, wanted {wrong}"):
        read_checkpoint(tmp_path / "x.pth", wrong)
    with pytest.raises(ValueError, match="hex digits"):
        read_checkpoint(tmp_path / "x.pth", "abc")


def random_state_dict(backbone: str, seed: int = 0, extra: bool = True) -> dict[str, np.ndarray]:
    """Source entries of a whole network, with batch-norm statistics that matter."""
    rng = np.random.default_rng(seed)
    rules = table(backbone)
    found: dict[str, np.ndarray] = {}
    for row in rules.rows:
        for name, shape in row.source_shapes().items():
            values = rng.normal(0, 0.05, shape)
            if name.endswith("running_var") or (row.norm and name == f"{row.norm}.weight"):
                values = rng.uniform(0.5, 1.5, shape)
            found[name] = values.astype(np.float32)
        if row.norm and extra:
            found[f"{row.norm}.num_batches_tracked"] = np.array(3, np.int64)
    if extra:
        found |= {f"{prefix}weight": np.zeros(3, np.float32) for prefix in rules.dropped_prefixes}
    return found


def test_shell_converts(tmp_path: Path) -> None:
    state = random_state_dict("resnet18")
    (tmp_path / "r18.pth").write_bytes(torch_files.zip_format(state))
    command = [sys.executable, "-m", "weights_conversion", str(tmp_path / "r18.pth"), str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resnet18" in done.stdout
    again = convert("resnet18", read_checkpoint(tmp_path / "out.safetensors"))
    wanted = flatten(convert("resnet18", state))
    assert all(np.array_equal(array, wanted[path]) for path, array in flatten(again).items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "r18.pth"]


def test_shell_refuses_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(torch_files.zip_of(pickle.dumps(_Runs(os.getpid), protocol=2), {}))
    command = [sys.executable, "-m", "weights_conversion", str(tmp_path / "bad.pth"), str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "getpid" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]
    other = str(weights_module.packaged_file("efficientnet_lite0"))
    wrong = [*command[:3], other, *command[4:], "--backbone", "resnet18"]
    done = subprocess.run(wrong, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "more lines" in done.stderr
    assert subprocess.run([*command[:-1], "out.npz"], capture_output=True, check=False).returncode == 2


def test_conversion_needs_no_jax_and_no_torch() -> None:
    code = "import sys, weights_conversion; print({'jax', 'torch', 'padim_jax', 'flax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
