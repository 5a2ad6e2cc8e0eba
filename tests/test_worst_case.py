"""The embedding that the bound of a compact model is a bound of: found, stored, and run in the program."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padim_jax as padim
from padim_jax.artifact import load_compacted, load_quantised, load_worst_case, save_compacted
from padim_jax.artifact.arrays import ArtifactError
from padim_jax.artifact.compaction import Compacted, DeployedForm, compact
from padim_jax.artifact.manifest import read_manifest
from padim_jax.cli import main
from padim_jax.export import ExportError, export_model, verify_export
from padim_jax.export.integer_factors import FactorsKept
from padim_jax.gaussians.worst_case import WorstCase
from padim_jax.method.variants import with_solver
from tests.conftest import SMALL, images, rewrite_manifest, write_images
from tests.exports import GOOD, TEST, backbone, compacted, fitted
from tests.test_export_certificate import rewrite

FORMS: tuple[DeployedForm, ...] = ("triangle-16bit", "low-rank-16bit")


def exact() -> padim.Padim:
    network = backbone("efficientnet_lite0")
    return padim.finalize(network, padim.update(network, padim.init(network, SMALL), images(6, SMALL)))


def known(small: Compacted) -> WorstCase:
    assert small.worst is not None
    return small.worst


def off(small: Compacted, deviations: np.ndarray) -> np.ndarray:
    """How far distances (n,) of deviations (n, d) at the worst position are off, relative to the exact ones."""
    model = with_solver(exact(), "inverse-factor")
    place = known(small).position
    x: Any = np.zeros((model.embedding.n_positions, *deviations.shape), np.float32)
    x[place] = np.asarray(model.gaussian.mean)[place] + deviations
    before, after = (np.asarray(one.gaussian.distances(x))[place] for one in (model, small.model))
    return np.abs(after / before - 1)


@pytest.mark.parametrize("form", FORMS)
def test_no_embedding_is_further_off_and_the_bound_is_hardly_wider(form: DeployedForm) -> None:
    small = compacted(form)
    worst = known(small)
    assert worst.error <= small.max_error <= 1.3 * worst.error + 1e-6
    (found,) = off(small, worst.deviation[None])
    np.testing.assert_allclose(found, worst.error, rtol=0.05, atol=2e-5)
    others = np.random.default_rng(0).normal(0, 1, (500, len(worst.deviation))).astype(np.float32)
    assert off(small, others).max() < worst.error + 2e-5
    np.testing.assert_allclose(worst.distance, np.sqrt(len(worst.deviation)), rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_stored_with_the_model(form: DeployedForm, tmp_path: Path) -> None:
    small = compacted(form)
    save_compacted(small, tmp_path / "model")
    stored = load_worst_case(tmp_path / "model")
    assert stored is not None
    bound, case = stored
    assert (bound, case.position, case.error) == (small.max_error, known(small).position, known(small).error)
    np.testing.assert_array_equal(case.deviation, known(small).deviation)
    padim.save(fitted("plain"), tmp_path / "whole")
    assert load_worst_case(tmp_path / "whole") is None
    assert compact(fitted("plain"), 0.0).worst is None


@pytest.mark.parametrize(
    "wrong",
    [
        *({"position": place} for place in (-1, 10**9, 1.0, True)),
        *({"deviation": values} for values in ("no", [], [1.0], [1.0] * 13)),
        {"distance": 0.0},
        {"error": None},
    ],
)
def test_one_that_is_damaged_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    save_compacted(compacted("triangle-16bit"), tmp_path / "model")
    found = json.loads((tmp_path / "model" / "model.json").read_text())["worst_case"]
    rewrite_manifest(tmp_path / "model", worst_case=found | wrong)
    with pytest.raises(ArtifactError, match="is damaged: its worst case can't be read"):
        load_worst_case(tmp_path / "model")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exported", ["onnx", "stablehlo"])
def test_the_certificate_has_it_and_what_the_program_gives(exported: Any, form: DeployedForm, tmp_path: Path) -> None:
    small = compacted(form)
    save_compacted(small, tmp_path / "model")
    for given in (small, tmp_path / "model"):
        report = export_model(given, tmp_path / "out", GOOD[:2], format=exported).worst_case
        assert report is not None
        assert (report.bound, report.error) == (small.max_error, known(small).error)
        np.testing.assert_allclose(report.difference, report.error, rtol=0.05, atol=2e-5)
        assert verify_export(tmp_path / "out", model=tmp_path / "model").certificate.worst_case == report
    assert export_model(fitted("plain", calibrated=False), tmp_path / "out").worst_case is None


def test_a_program_that_is_further_off_is_not_written(tmp_path: Path) -> None:
    small = compacted("triangle-16bit")
    other = replace(small, worst=replace(known(small), distance=1.05 * known(small).distance))
    with pytest.raises(ExportError, match="on the worst case of the compacted model, whose bound is"):
        export_model(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_certificate_whose_worst_case_is_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    export_model(compacted("triangle-16bit"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "certificate.json").read_text())["worst_case"]
    for changes, message in (({"error": 0.5}, "its worst case is beyond its own bound"), ({"more": 1}, "has 'more'")):
        rewrite(tmp_path / "out", honest=True, worst_case=record | changes)
        with pytest.raises(ExportError, match=message):
            verify_export(tmp_path / "out")


def test_in_eight_bits_it_is_of_the_factors_that_were_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(model: padim.Padim) -> None:
        raise FactorsKept("they are to be of 16 bits here")

    monkeypatch.setattr("padim_jax.export.precision.in_integers", keep)
    small = compact(fitted("plain"), 1e-2)  # calibrated, on whose scale other runtimes round little too
    certificate = export_model(small, tmp_path / "out", np.concatenate([GOOD, TEST]), precision="int8")
    assert certificate.worst_case is not None
    assert certificate.worst_case.bound != small.max_error


def test_calibrating_a_compact_model_leaves_it_compact(tmp_path: Path) -> None:
    save_compacted(compacted("triangle-16bit"), tmp_path / "model")
    before = load_worst_case(tmp_path / "model"), load_quantised(tmp_path / "model")
    write_images(tmp_path / "parts", images(9, SMALL, seed=3))
    assert main(["calibrate", str(tmp_path / "model"), str(tmp_path / "parts")]) == 0
    assert main(["calibrate", str(tmp_path / "model"), "--threshold", "7"]) == 0
    assert padim.load(tmp_path / "model").calibration is not None
    assert read_manifest(tmp_path / "model")["form"] == "triangle-16bit"
    (bound, case), quantised = load_worst_case(tmp_path / "model"), load_quantised(tmp_path / "model")  # type: ignore[misc]
    assert (bound, case.position, case.error) == (before[0][0], before[0][1].position, before[0][1].error)  # type: ignore[index]
    np.testing.assert_array_equal(quantised.values, before[1].values)  # type: ignore[union-attr]
    rewrite_manifest(tmp_path / "model", max_error="small")
    with pytest.raises(ArtifactError, match=r"is damaged \(form 'triangle-16bit', bound of its distances 'small'\)"):
        load_compacted(tmp_path / "model")
    padim.save(fitted("plain"), tmp_path / "whole")
    assert load_compacted(tmp_path / "whole") is None


def test_a_certificate_with_another_worst_case_than_the_model_s_is_refused(tmp_path: Path) -> None:
    save_compacted(compacted("triangle-16bit"), tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "certificate.json").read_text())["worst_case"]
    rewrite(tmp_path / "out", honest=True, worst_case=record | {"bound": 0.5})
    with pytest.raises(ExportError, match="has another worst case than the model given"):
        verify_export(tmp_path / "out", model=tmp_path / "model")
    rewrite(tmp_path / "out", honest=True, worst_case=record | {"position": 10**6})
    with pytest.raises(ExportError, match="names position 1000000 of a model of 96"):
        verify_export(tmp_path / "out", model=padim.load(tmp_path / "model"))
