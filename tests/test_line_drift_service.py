"""Drift over HTTP: what was found at the last look, as JSON and as Prometheus reads it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from padim_jax.artifact.manifest import manifest_checksum, read_manifest
from padim_jax.line.drift import KINDS, QUANTITIES
from padim_jax.line.store import Store
from tests.line_parts import fit_model
from tests.service import NAME, Running, good, serving
from tests.test_line_drift_events import drifted


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("drift")
    digest = manifest_checksum(read_manifest(fit_model(folder / NAME)))
    with Store.open(folder / "line.db") as store:
        store.record(drifted(NAME, "an earlier state", columns=(1, 3)))
        store.record(drifted(NAME, digest, columns=(1, 9), seed=9))
        store.record(replace(one, item=f"steady-{one.item}") for one in drifted("steady", "s0", 90, seed=10)[:60])
        store.record(drifted("caf\udce9", "c0", 30, source='/line/"caf\udce9"'))
    with serving(folder / NAME, folder / "line.db") as running:
        yield running


def looked(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Drift by model, once it was looked for."""
    deadline = time.monotonic() + 20
    while not (found := client.get("/drift").json())["models"]:
        assert time.monotonic() < deadline
    assert found["rate"] == 0.01
    return {one["model"]: one for one in found["models"]}


def test_drift_of_the_last_state_of_each_model_is_there(service: Running) -> None:
    with service.client() as client:
        found = looked(client)
        assert client.post(service.score, content=good(1), headers={"content-type": "image/png"}).status_code == 200
    assert set(found) == {NAME, "steady", "caf\udce9"}
    assert found["caf\udce9"]["source"] == '/line/"caf\udce9"'
    moved = [(one["kind"], one["place"], one["is_higher"]) for one in found[NAME]["findings"] if one["alarm"]]
    assert moved == [("brightness", None, False), ("place", [0, 2], False)]
    assert len(found[NAME]["findings"]) == len(QUANTITIES)
    assert [words.split(" since ")[0] for words in found[NAME]["words"]] == [
        "the images are darker",
        "the upper middle of the picture scores lower",
    ]
    assert found[NAME]["offer"]["calibrate"] == f"padim calibrate MODELS/{NAME} GOOD_IMAGES"
    assert (found["steady"]["has_drifted"], found["steady"]["words"], found["steady"]["offer"]) == (False, [], {})
    said = [line for line in service.said if f"{NAME} has drifted on images of /in: " in line]
    assert len(said) == 2  # of each state once
    assert all("look at what has changed" in line for line in said)


def test_prometheus_reads_capital_and_alarm_by_model_and_kind(service: Running) -> None:
    with service.client() as client:
        looked(client)
        answer = client.get("/metrics")
    assert answer.status_code == 200
    lines = answer.content.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    source = 'source="/in"'
    for kind in KINDS:
        alarm = float(values[f'padim_drift_alarm{{kind="{kind}",model="{NAME}",{source}}}'])
        assert alarm == (kind in ("brightness", "place"))
        assert float(values[f'padim_drift_changes{{kind="{kind}",model="{NAME}",{source}}}']) == alarm
        assert float(values[f'padim_drift_capital{{kind="{kind}",model="{NAME}",{source}}}']) < 100  # since then
        assert values[f'padim_drift_alarm{{kind="{kind}",model="steady",{source}}}'] == "0"
        odd = r'''model="caf\\xe9",source="/line/\"caf\\xe9\""'''  # a backslash and a quote have one more in front
        assert f'padim_drift_alarm{{kind="{kind}",{odd}}}' in values


def test_nobody_without_the_token_sees_it(tmp_path: Path) -> None:
    model, token = fit_model(tmp_path / NAME), tmp_path / "token"
    token.write_text("correct-horse-battery-staple\n")
    with serving(model, tmp_path / "line.db", "--token-file", str(token)) as service, service.client() as client:
        assert client.get("/drift").status_code == 401
        assert client.get("/drift.js").status_code == 200  # of the page, and nothing of a line is in it
