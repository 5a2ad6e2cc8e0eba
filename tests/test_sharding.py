"""Update and score with images sharded over a mesh's automatic axis, in a process with four virtual devices."""

import os
import subprocess
import sys

CODE = """
import jax, numpy as np, padim_jax as padim
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tests.conftest import SMALL, images

assert jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
over_images, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
backbone, x = padim.load_backbone("efficientnet_lite0"), images(16, SMALL)
one = padim.update(backbone, padim.init(backbone, SMALL), x)
model = padim.finalize(backbone, one)
spread = jax.device_put(x, over_images)
backbone, start, copied = jax.device_put((backbone, padim.init(backbone, SMALL), model), everywhere)
many = padim.update(backbone, start, spread)
np.testing.assert_allclose(many.moments.scatter.square(), one.moments.scatter.square(), rtol=1e-3, atol=1e-3)
scores = padim.score(copied, spread)
assert len(scores.image_score.sharding.device_set) == 4
np.testing.assert_allclose(scores.anomaly_map, padim.score(model, x).anomaly_map, rtol=1e-4)
print("equal")
"""


def test_sharded_images_give_the_same_moments_and_scores() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
