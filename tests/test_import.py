"""Checkpoints of anomalib become models that score as it does, or are refused in words; nothing in them is executed."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact.anomalib import ModelImportError, import_anomalib
from padim_jax.export import export_model
from tests import torch_files
from tests.checkpoints import (
    CONFIG,
    CROP,
    GOOD,
    NETWORK,
    NORMALIZE,
    RESIZE,
    TEST,
    arrays,
    fitted,
    network_weights,
    record,
    transform,
    write,
)
from tests.conftest import write_images
from tests.mutations import mutate
from tests.test_cli import run
from weights_conversion import CheckpointError, ConversionError, read_training_checkpoint
from weights_conversion.torch_pickle import OPAQUE


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> padim.Padim:
    return import_anomalib(write(tmp_path_factory.mktemp("import") / "padim.ckpt"), n_images=len(GOOD))


def test_scores_and_maps_are_those_of_the_model_that_was_fitted(imported: padim.Padim) -> None:
    model = fitted()
    assert (imported.embedding.channels, imported.embedding.grid) == (model.embedding.channels, model.embedding.grid)
    found, wanted = padim.score(imported, TEST), padim.score(model, TEST)
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-5)
    np.testing.assert_allclose(found.image_score, wanted.image_score, rtol=1e-5)


def test_its_settings_are_the_checkpoints(imported: padim.Padim) -> None:
    assert imported.config == CONFIG


def test_images_can_be_left_out_of_it_where_their_number_is_known(imported: padim.Padim, tmp_path: Path) -> None:
    found, wanted = (padim.calibrate(model, GOOD).calibration for model in (imported, fitted()))
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-2)  # its covariances are inverted in 32 bits
    unknown = import_anomalib(write(tmp_path / "x.ckpt"))
    with pytest.raises(ValueError, match="0 images are too few to leave one out"):
        padim.calibrate(unknown, GOOD)


def test_layers_in_another_order_are_other_channels(tmp_path: Path) -> None:
    state, widths = arrays(), (64, 128)
    model = fitted()
    swapped = ["layer1", "layer3", "layer2"]
    index = state["model.idx"].copy()
    index[index >= widths[0]] += 256  # layer2 now comes after layer3
    weights = {f"{NETWORK}{name}": array for name, array in network_weights().items() if "layer3" in name}
    facts = {"backbone": "resnet18.tv_in1k", "layers": swapped}
    found = import_anomalib(write(tmp_path / "y.ckpt", {"model.idx": index, **weights}, hyper_parameters=facts))
    assert found.embedding.channels == model.embedding.channels
    np.testing.assert_allclose(padim.score(found, TEST).image_score, padim.score(model, TEST).image_score, rtol=1e-5)


def test_it_is_saved_compacted_exported_and_not_updated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model, good = write(tmp_path / "padim.ckpt"), tmp_path / "m", write_images(tmp_path / "good", GOOD)
    code, told, said = run(capsys, "import", path, "--out", model)
    assert (code, "resnet18, layers layer1, layer2, 12 channels at 96 positions, for images of 40×56" in told) == (
        0,
        True,
    ), said
    assert "on good images that anomalib did not fit it on" in said
    assert run(capsys, "calibrate", model, tmp_path / "good")[0] == 0
    assert run(capsys, "compact", model, "--out", tmp_path / "small", "--max-error", "0.01")[0] == 0
    certificate = export_model(tmp_path / "small", tmp_path / "out", good)
    assert certificate.largest < 1e-4
    for command in (["update", model, tmp_path / "good"], ["forget", model, tmp_path / "good"]):
        code, _, said = run(capsys, *command)
        assert (code, "without the moments that updating needs" in said) == (1, True)
    code, _, said = run(capsys, "merge", model, model, "--out", tmp_path / "joined")
    assert (code, "without the moments that updating needs" in said) == (1, True)


def _network(name: str, array: np.ndarray | None = None) -> dict[str, Any]:
    return {f"{NETWORK}{name}": array}


STATE = "changes"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no Gaussian": ({STATE: {"model.gaussian.mean": None}}, r"it has no model\.gaussian\.mean"),
    "not fitted": (
        {STATE: {"model.gaussian.mean": np.zeros(0, np.float32)}},
        r"model\.gaussian\.mean is float32 of shape \(0,\), which no fitted Padim",
    ),
    "not finite": ({STATE: {"model.gaussian.mean": np.full((12, 96), np.nan, np.float32)}}, "is not finite"),
    "beyond 32 bits": ({STATE: {"model.gaussian.mean": np.full((12, 96), 1e300)}}, "is not finite in 32 bits"),
    "an inverse beyond 32 bits": (
        {STATE: {"model.gaussian.inv_covariance": np.tile(1e90 * np.eye(12), (96, 1, 1))}},
        "is not finite in 32 bits",
    ),
    "other shapes": ({STATE: {"model.gaussian.mean": np.zeros((12, 95), np.float32)}}, "don't belong together"),
    "channels twice": ({STATE: {"model.idx": np.zeros(12, np.int64)}}, "is no choice of the 192 channels"),
    "channels beyond": ({STATE: {"model.idx": np.arange(12) + 185}}, "is no choice of the 192 channels"),
    "channels of floats": ({STATE: {"model.idx": np.zeros(12, np.float32)}}, r"model\.idx is float32"),
    "no inverse": (
        {STATE: {"model.gaussian.inv_covariance": -np.tile(np.eye(12, dtype=np.float32), (96, 1, 1))}},
        "among positions 0 to 95 are inverse covariances that are not positive definite",
    ),
    "another blur": (
        {STATE: {"model.anomaly_map_generator.blur.kernel": np.full((1, 1, 13, 13), 1 / 169, np.float32)}},
        "its blur is no Gaussian filter",
    ),
    "no blur": ({STATE: {"model.anomaly_map_generator.blur.kernel": np.ones((1, 1, 1, 1), np.float32)}}, "its blur"),
    "no network": (
        {STATE: {name: None for name in arrays() if name.startswith(NETWORK)}},
        "no model.feature_extractor",
    ),
    "another network": (
        {"hyper_parameters": {"backbone": "vit_base", "layers": ["a"]}},
        "'vit_base', and those that can",
    ),
    "a network that is another here": (
        {"hyper_parameters": {"backbone": "efficientnet_lite0", "layers": ["a"]}},
        "resnet18, resnet50, wide_resnet50_2",
    ),
    "no settings": ({"hyper_parameters": None}, "name no backbone and layers"),
    "unknown layers": (
        {"hyper_parameters": {"backbone": "resnet18", "layers": ["layer9"]}},
        "its layers are not of layer1",
    ),
    "layers of numbers": (
        {"hyper_parameters": {"backbone": "resnet18", "layers": [1]}},
        "its layers are not of layer1",
    ),
    "a coarse layer first": (
        {"hyper_parameters": {"backbone": "resnet18", "layers": ["layer2", "layer1"]}},
        "its first layer is layer2, and padim takes the grid of layer1",
    ),
    "no size": ({"anomalib_pre_processor_config": None}, "does not say what size.*give image_size"),
    "another size": (
        {"anomalib_pre_processor_config": transform(("Resize", {"size": [64, 64]}), NORMALIZE)},
        "Gaussians at 96 positions, and images of 64×64 have 16×16",
    ),
    "an aspect ratio": (
        {"anomalib_pre_processor_config": transform(("Resize", {"size": 256}))},
        "keeps the aspect ratio",
    ),
    "another resize": (
        {"anomalib_pre_processor_config": transform(("Resize", {"size": [40, 56], "interpolation": "bicubic"}))},
        "is not bilinear",
    ),
    "no averages": (
        {"anomalib_pre_processor_config": transform(("Resize", {"size": [40, 56], "antialias": False}))},
        "does not average",
    ),
    "an odd margin": (
        {"anomalib_pre_processor_config": transform(RESIZE, ("CenterCrop", {"size": [31, 48]}))},
        "same margin on both sides",
    ),
    "other numbers": (
        {
            "anomalib_pre_processor_config": transform(
                RESIZE, CROP, ("Normalize", {"mean": [0, 0, 0], "std": [1, 1, 1]})
            )
        },
        "normalises by other numbers",
    ),
    "another transform": (
        {"anomalib_pre_processor_config": transform(RESIZE, ("RandomRotation", {}))},
        "RandomRotation comes at a place",
    ),
    "no resize": ({"anomalib_pre_processor_config": transform(NORMALIZE)}, "Normalize comes at a place"),
    "no transforms": ({"anomalib_pre_processor_config": transform()}, "images are not resized"),
    "nonsense": ({"anomalib_pre_processor_config": {"transform": {"class_path": 3}}}, "no name and options"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_padim_can_not_do_is_refused_in_words(name: str, tmp_path: Path) -> None:
    options, message = REFUSED[name]
    facts = dict(options)
    path = write(tmp_path / "x.ckpt", facts.pop(STATE, None), **facts)
    with pytest.raises(ModelImportError, match=rf"(?s)^import_anomalib: {path}: .*{message}"):
        import_anomalib(path)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", _network("conv1.weight"))
    with pytest.raises(ConversionError, match=r"missing: conv1\.weight"):
        import_anomalib(path)
    path = write(tmp_path / "x.ckpt", _network("layer2.0.conv1.weight"))  # which is tapped
    with pytest.raises(ConversionError, match=r"missing: layer2\.0\.conv1\.weight"):
        import_anomalib(path)


def test_a_size_is_taken_from_the_caller_where_the_checkpoint_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", anomalib_pre_processor_config=None)
    assert import_anomalib(path, image_size=(32, 48)).config.crop == (32, 48)
    with pytest.raises(ModelImportError, match=r"96 positions, and images of 64×64 have 16×16; give the image_size"):
        import_anomalib(path, image_size=64)
    with pytest.raises(ModelImportError, match=r"it says that images have \(40, 56\), not image_size=\(32, 48\)"):
        import_anomalib(write(tmp_path / "y.ckpt"), image_size=(32, 48))
    with pytest.raises(ValueError, match="image_size"):
        import_anomalib(path, image_size=0)
    with pytest.raises(ValueError, match="n_images=1, wanted a whole number, 2 or more"):
        import_anomalib(path, n_images=1)


class Trap:
    """Whatever a pickle may make of a class, and would do if it were let."""

    done: list[str] = []  # noqa: RUF012 - of the class, as the calls would be

    def __init__(self, how: int) -> None:
        self.how = how

    def __reduce_ex__(self, protocol: Any) -> Any:
        args = ("x",)
        if self.how == 0:
            return Trap.spring, args
        if self.how == 1:
            return Trap.spring, args, {"state": [1, {2: 3}]}
        if self.how == 2:
            return object.__new__, (Trap,), {"how": 1}
        return Trap.spring, args, None, iter([1, 2]), iter({"a": 1}.items())

    @staticmethod
    def spring(word: str) -> None:
        Trap.done.append(word)


def test_classes_in_a_checkpoint_are_left_alone_and_nothing_is_called(tmp_path: Path) -> None:
    foreign = {
        "callbacks": {"a": Trap(0), "b": [Trap(1), Trap(2)], "c": Trap(3)},
        "sets": {1, 2},
        "frozen": frozenset([3]),
        "bytes": b"x",
        "class": Trap,
        "twice": [(shared := (1, 2)), shared],
        "ordered": OrderedDict(a=Trap(0)),
        "place": Path("x"),
    }
    model = import_anomalib(write(tmp_path / "x.ckpt", **foreign, odd={("a", 1): 2}))
    np.testing.assert_allclose(padim.score(model, TEST).image_score, padim.score(fitted(), TEST).image_score, rtol=1e-5)
    _, found = read_training_checkpoint(tmp_path / "x.ckpt")
    assert Trap.done == []
    assert found["callbacks"] == {"a": OPAQUE, "b": [OPAQUE, OPAQUE], "c": OPAQUE}
    assert (found["odd"], found["ordered"], found["sets"]) == ({}, {"a": OPAQUE}, OPAQUE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_so_are_those_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    pickle.Pickler(stream, protocol).dump({"state_dict": {"a": 1}, "b": {"c": Trap(1), "d": {1}, "e": Path("x")}})
    (tmp_path / "x.ckpt").write_bytes(torch_files.zip_of(stream.getvalue(), {}))
    with pytest.raises(CheckpointError, match="no state dict"):  # it was read to its end
        read_training_checkpoint(tmp_path / "x.ckpt")
    assert Trap.done == []


def test_a_pickle_that_was_changed_is_read_or_refused(tmp_path: Path) -> None:
    content = write(
        tmp_path / "x.ckpt", {name: None for name in arrays() if name.startswith(NETWORK)}, a=Trap(3), b={1}
    )
    with zipfile.ZipFile(content) as archive:
        pickled = archive.read("archive/data.pkl")
        storages = {
            name.removeprefix("archive/data/"): np.frombuffer(archive.read(name), np.uint8)
            for name in archive.namelist()
            if name.startswith("archive/data/")
        }
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        content.write_bytes(torch_files.zip_of(mutate(rng, pickled, pickled), storages))
        try:
            read_training_checkpoint(content)
        except CheckpointError:
            refused += 1
    assert 30 < refused < 300
    assert Trap.done == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is no checkpoint of PyTorch 1.6 or later"),
        (torch_files.zip_format({"a": np.zeros(3, np.float32)}), "it has no state_dict"),
        (torch_files.training_format({}, {}), "no state dict"),
        (torch_files.training_format(arrays(), record())[:-9000], "damaged or cut short"),
    ],
)
def test_other_files_are_refused_in_words(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^read_training_checkpoint: .*x\.ckpt.*{message}"):
        import_anomalib(tmp_path / "x.ckpt")
