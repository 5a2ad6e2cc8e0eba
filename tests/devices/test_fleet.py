"""Fitting many models on several devices."""

from pathlib import Path
from typing import Any

import jax
import pytest

import padim_jax as padim
from padim_jax.fleet import fitting
from tests.test_fleet import TERMS, jobs_in


@pytest.mark.slow
def test_models_are_shared_out_over_devices(
    lite0: padim.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, used, fit = jax.devices()[:3], set(), fitting._fit

    def spied(job: Any, network: padim.Backbone, *rest: Any) -> Any:
        used.add(next(iter(jax.tree.leaves(network)[0].devices())))
        return fit(job, network, *rest)

    monkeypatch.setattr(fitting, "_fit", spied)
    jobs, out = jobs_in(tmp_path, [5] * 9), tmp_path / "models"
    out.mkdir()
    outcomes = list(fitting.fit_many(lite0, jobs, TERMS, out, fitting.Journal(out), devices=devices))
    assert len(outcomes) == 9
    assert {outcome.status for outcome in outcomes} == {"fitted"}, outcomes
    assert used == set(devices)
