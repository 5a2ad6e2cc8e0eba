"""Fit and score on every mesh of eight virtual devices, in a process of their own, against one device."""

import os
import re
import subprocess
import sys

import pytest

PRELUDE = """
import jax, numpy as np, padim_jax as padim
from dataclasses import replace
from padim_jax import mesh as meshes
from tests.conftest import SMALL, images

assert jax.device_count() == 8
backbone = padim.load_backbone("efficientnet_lite0")
UNEVEN = replace(SMALL, crop_size=(40, 56), image_size=(48, 64))  # 10×14 cells: 140 are not a multiple of 8

def by_one(config):
    moments = padim.init(backbone, config)
    for batch in (images(21, config)[:13], images(21, config)[13:]):
        moments = padim.update(backbone, moments, batch)
    return moments

def by_many(mesh, config):
    network = meshes.replicated(mesh, backbone)
    moments = meshes.init(mesh, network, config)
    for batch in (images(21, config)[:13], images(21, config)[13:]):
        moments = meshes.update(network, moments, batch)
    return network, moments
"""

EQUAL = """
for config in (SMALL, replace(UNEVEN, covariance="ledoit-wolf", projection="semi-orthogonal")):
    one = padim.finalize(backbone, by_one(config))
    test = images(5, config, seed=9)
    wanted = padim.score(one, test)
    for rows in (1, 2, 4, 8):
        mesh = meshes.device_mesh(rows)
        network, moments = by_many(mesh, config)
        joined = meshes.joined(moments)
        again = meshes.joined(meshes.split(meshes.device_mesh(8 // rows), joined))  # on to another mesh and back
        for fitted in (meshes.finalize(network, joined, mesh), meshes.place(mesh, one)):
            found = meshes.score(fitted, test)
            np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-4)
            np.testing.assert_allclose(found.image_score, wanted.image_score, rtol=1e-4)
        np.testing.assert_allclose(again.moments.mean, joined.moments.mean, rtol=1e-6)
        assert float(again.count) == 21
"""

CALIBRATED = """
model = padim.calibrate(padim.finalize(backbone, by_one(SMALL)), [images(21, SMALL)])
test = images(5, SMALL, seed=9)
found, wanted = meshes.score(meshes.place(meshes.device_mesh(2), model), test), padim.score(model, test)
np.testing.assert_allclose(found.p_value, wanted.p_value)
assert (np.asarray(found.anomalous) == np.asarray(wanted.anomalous)).all()
model = padim.with_solver(model, "triangular-solve")
np.testing.assert_allclose(meshes.score(meshes.place(meshes.device_mesh(4), model), test).p_value, wanted.p_value)
"""

SHARES = """
for rows in (1, 2, 4, 8):
    mesh = meshes.device_mesh(rows)
    network, moments = by_many(mesh, UNEVEN)
    for array in (moments.rows.mean, *moments.rows.scatter.panels):
        whole = 144 * array[0, 0].size  # 140 positions, filled up
        assert {shard.data.size for shard in array.addressable_shards} == {whole // (8 // rows)}
    placed = meshes.place(mesh, padim.finalize(backbone, by_one(UNEVEN))).model.gaussian
    for array in placed.whitening.panels:
        assert {shard.data.size for shard in array.addressable_shards} == {144 * array[0].size // (8 // rows)}
"""

EXCHANGED = """
def sent(program):  # bytes that leave each device, of all collectives of the program
    total, kinds = 0, set()
    for line in program.splitlines():
        found = re.search(r"= (.*?) (all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(-start)?\\(", line)
        if found:
            kinds.add(found[2])
            groups = re.search(r"replica_groups=(\\{\\{[\\d,]*\\}|\\[\\d+,\\d+\\])", line)[1]
            size = int(groups.strip("[]").split(",")[1]) if groups[0] == "[" else groups.count(",") + 1
            for kind, shape in re.findall(r"(f32|pred|u8|s32)\\[([\\d,]*)\\]", found[1]):
                numbers = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
                total += numbers * {"f32": 4, "s32": 4}.get(kind, 1) * (size - 1) / size
    return total, kinds

for rows in (1, 2, 4, 8):
    mesh = meshes.device_mesh(rows)
    network, moments = by_many(mesh, UNEVEN)
    batch, valid = (meshes.shared_out(mesh, a) for a in (images(16, UNEVEN), np.ones(16, bool)))
    own = (network, moments.rows, moments.projection, batch, valid)
    program = meshes._update.lower(*own, embedding=moments.embedding, mesh=mesh).compile().as_text()
    each = meshes.bytes_per_image(mesh, moments.embedding) * 2  # images a device embeds
    total, kinds = sent(program)
    assert each <= total <= each + 16, (rows, total, each)  # and a byte for each image's validity
    assert kinds <= {"all-to-all", "all-gather"}, kinds
    model = meshes.place(mesh, padim.finalize(backbone, by_one(UNEVEN)))
    total, kinds = sent(meshes._score.lower(model, batch, None).compile().as_text())
    d = moments.embedding.dimension
    np.testing.assert_allclose(total, each * (d + 1) / d)
"""

WRONG = """
for made in (lambda: meshes.device_mesh(3), lambda: meshes.device_mesh(2, 8), lambda: meshes.device_mesh(0)):
    try:
        made()
    except ValueError as error:
        assert "8, the devices there are" in str(error)
    else:
        raise AssertionError
mesh = meshes.device_mesh()
network, moments = by_many(mesh, SMALL)
try:
    meshes.update(network, moments, images(3, UNEVEN))
except ValueError as error:
    assert "crop_size" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(EQUAL, id="equal", marks=pytest.mark.slow),
        pytest.param(CALIBRATED, id="calibrated"),
        pytest.param(SHARES, id="shares", marks=pytest.mark.slow),
        pytest.param(EXCHANGED, id="exchanged", marks=pytest.mark.slow),
        pytest.param(WRONG, id="wrong"),
    ],
)
def test_eight_devices(code: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import re\n{PRELUDE}\n{code}\nprint('done')"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), re.sub(r"(?m)^.*xla.*$\n?", "", done.stderr)[-3000:]
