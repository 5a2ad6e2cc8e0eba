"""Exports in eight bits that a runtime rounds too far off: they are made, and nobody runs them there unwarned."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.export import Certificate, ExportError, export_model, exporting, verify_export, verifying
from padim_jax.export.certificate import CERTIFICATE
from padim_jax.export.compare import BOUNDS
from padim_jax.export.model_card import examine
from padim_jax.export.runtimes import Runtime, open_runtimes
from tests.conftest import SMALL, images, write_images
from tests.exports import fitted
from tests.test_cli import run
from tests.test_export_certificate import record, rewrite

GOOD = images(24, SMALL)


class Other:
    """A runtime beside ONNX Runtime whose maps and scores are those times a factor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.factor: float | None = 1.3  # None where it is not installed
        self.own = 1.0  # of ONNX Runtime itself
        self.images = 0  # that it was given
        for module in (exporting, verifying):
            monkeypatch.setattr(module, "open_runtimes", self.open)

    def open(self, folder: Path, format: str, precision: str = "float32") -> list[Runtime]:
        own = open_runtimes(folder, format, precision)[0]
        found = [Runtime(own.name, own.version, lambda shown: self.scaled(own.run(shown), self.own))]
        if self.factor is not None:
            found.append(Runtime("OpenVINO", "1.0", lambda shown: self.run(own, shown)))
        return found

    def run(self, own: Runtime, shown: np.ndarray) -> dict[str, np.ndarray]:
        self.images += len(shown)
        return self.scaled(own.run(shown), self.factor or 1.0)

    @staticmethod
    def scaled(found: Any, factor: float) -> dict[str, np.ndarray]:
        return {name: value * np.float32(factor) for name, value in found.items()}


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Other:
    return Other(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Certificate]]:
    """An export, and what was returned of it; not to be changed."""
    with pytest.MonkeyPatch.context() as patched:
        Other(patched)
        folder = tmp_path_factory.mktemp("unfit") / "part"
        yield folder, export_model(fitted("plain", calibrated=False), folder, GOOD, precision="int8")


@pytest.fixture
def copy(made: tuple[Path, Certificate], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "copy"))


def names(reports: Sequence[Any]) -> list[str]:
    return [report.name for report in reports]


def test_the_export_is_made_and_says_where_not_to_run_it(made: tuple[Path, Certificate], other: Other) -> None:
    folder, certificate = made
    assert (names(certificate.runtimes), names(certificate.unfit)) == (["ONNX Runtime"], ["OpenVINO"])
    assert certificate.unfit[0].differences.relative > BOUNDS["int8"]
    assert certificate.largest < 1e-4
    assert record(folder)["schema"] == 3
    found = verify_export(folder, GOOD[:3])
    assert (found.certificate.runtimes, found.certificate.unfit) == (certificate.runtimes, certificate.unfit)
    assert (names(found.runtimes), found.unfit, found.known) == (["ONNX Runtime"], certificate.unfit, 3)
    assert other.images == 0
    text = "**do not run it in OpenVINO, which rounds it otherwise than ONNX Runtime: 1.0 is off by "
    assert text in examine(folder).card


def test_one_that_every_runtime_may_run_is_as_earlier_versions_read_it(copy: Path, other: Other) -> None:
    fit = {name: value for name, value in record(copy).items() if name != "unfit"}
    (copy / CERTIFICATE).write_text(json.dumps({**fit, "schema": 2}))
    rewrite(copy, honest=True)
    other.factor = None
    found = verify_export(copy)
    assert (found.unfit, found.certificate.unfit) == ((), ())
    written = json.loads(found.certificate.text())
    assert (written["schema"], "unfit" in written) == (2, False)


def test_in_32_bits_and_in_its_own_runtime_there_is_no_export(other: Other, tmp_path: Path) -> None:
    other.factor = 1.001
    with pytest.raises(
        ExportError, match=r"OpenVINO 1\.0 is off by 0\.001 .*the bound of 0\.0001; nothing was written"
    ):
        export_model(fitted("plain", calibrated=False), tmp_path / "out", GOOD[:3])
    for own, factor, message in ((1.001, None, "ONNX Runtime .* of 0.0001;"), (1.0, np.inf, "OpenVINO 1.0 is off by")):
        other.own, other.factor = own, factor
        with pytest.raises(ExportError, match=message):
            export_model(fitted("plain", calibrated=False), tmp_path / "out", GOOD[:6], precision="int8")
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_would_run_it_there_is_refused(other: Other, tmp_path: Path) -> None:
    model = fitted("plain", calibrated=False)
    with pytest.raises(ExportError, match=r"^export_model: the folder 'cpp' runs the program in OpenVINO.*leave 'cpp'"):
        export_model(model, tmp_path / "out", GOOD[:6], precision="int8", runtimes=["csharp", "cpp"])
    assert not [*tmp_path.iterdir()]
    assert export_model(model, tmp_path / "out", GOOD[:6], precision="int8", runtimes=["csharp"]).unfit
    other.factor = None
    assert not export_model(model, tmp_path / "out", GOOD[:6], precision="int8", runtimes=["cpp"]).unfit
    other.factor = 1.3
    with pytest.raises(ExportError, match=r"^verify_export: the folder 'cpp' runs the program in OpenVINO"):
        verify_export(tmp_path / "out")


def test_a_runtime_that_was_not_there_may_be_unfit_and_one_that_was_certified_may_not(copy: Path, other: Other) -> None:
    found = record(copy)
    rewrite(copy, honest=True, unfit=[])  # as of an export where OpenVINO was missing
    checked = verify_export(copy, GOOD[:3])
    assert (names(checked.runtimes), names(checked.unfit)) == (["ONNX Runtime"], ["OpenVINO"])
    assert checked.unfit[0].differences.images == other.images > 3
    within = found["unfit"][0] | {"differences": found["runtimes"][0]["differences"]}
    rewrite(copy, honest=True, unfit=[], runtimes=[*found["runtimes"], within])
    with pytest.raises(ExportError, match=r"OpenVINO 1\.0 is off by .* on this machine, beyond the bound of 0\.1"):
        verify_export(copy)
    other.factor = 1.01
    assert names(verify_export(copy).runtimes) == ["ONNX Runtime", "OpenVINO"]


TAMPERINGS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "fit after all": (lambda r: {"runtimes": r["runtimes"] + r["unfit"], "unfit": []}, "beyond its bound"),
    "both": (lambda r: {"runtimes": [*r["runtimes"], r["unfit"][0] | {"differences": r["runtimes"][0]["differences"]}]},
             "names a runtime as fit and as unfit"),
    "without a reason": (lambda r: {"unfit": [r["unfit"][0] | {"differences": r["runtimes"][0]["differences"]}]},
                         "names as unfit a runtime that is not beyond its bound"),
    "its own runtime": (lambda r: {"unfit": [r["unfit"][0] | {"name": "ONNX Runtime"}]}, "a runtime that has to be fit"),
    "32 bits": (lambda r: {"precision": "float32", "bound": 1e-4, "factor_error": None}, "a runtime that has to be fit"),
    "an earlier schema": (lambda r: {"schema": 2}, "it has 'unfit', and its schema is 2"),
    "no report": (lambda r: {"unfit": ["OpenVINO"]}, "a runtime is 'OpenVINO'"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_no_honest_certificate_says_is_refused(name: str, copy: Path, other: Other) -> None:
    change, message = TAMPERINGS[name]
    rewrite(copy, honest=True, **change(record(copy)))
    with pytest.raises(ExportError, match=message):
        verify_export(copy)


def test_the_commands_warn_where_it_must_not_be_run(
    other: Other, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    padim.save(fitted("plain", calibrated=False), tmp_path / "part.padim")
    good = write_images(tmp_path / "good", GOOD[:6])
    warning = "WARNING: do not run it in OpenVINO, which rounds it otherwise than ONNX Runtime: 1.0 is off by 0.3"
    options = ["--out", tmp_path / "out", "--precision", "int8"]
    for words in (["export", tmp_path / "part.padim", *good, *options], ["verify", tmp_path / "out", *good]):
        code, told, said = run(capsys, *words)
        assert (code, "ONNX Runtime" in told, "OpenVINO" in told, warning in said) == (0, True, False, True), said
        assert "export with --format openvino" in said
