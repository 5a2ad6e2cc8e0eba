"""Update and score with images sharded over a mesh's automatic axis."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import padim_jax as padim
from tests.conftest import SMALL, images


def test_sharded_images_give_the_same_moments_and_scores(lite0: padim.Backbone) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    over_images, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    x = images(16, SMALL)
    one = padim.update(lite0, padim.init(lite0, SMALL), x)
    model = padim.finalize(lite0, one)
    spread = jax.device_put(x, over_images)
    backbone, start, copied = jax.device_put((lite0, padim.init(lite0, SMALL), model), everywhere)
    many = padim.update(backbone, start, spread)
    np.testing.assert_allclose(many.moments.scatter.square(), one.moments.scatter.square(), rtol=1e-3, atol=1e-3)
    scores = padim.score(copied, spread)
    assert len(scores.image_score.sharding.device_set) == 4
    np.testing.assert_allclose(scores.anomaly_map, padim.score(model, x).anomaly_map, rtol=1e-4)
