"""The examples in the docstrings of public names do what they say."""

import doctest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import padim_jax as padim
from padim_jax.baselines import Method, TrainingCheckpoint, TrainingHost
from padim_jax.fleet import Fleet
from padim_jax.images import find_images
from padim_jax.mesh import device_mesh
from tests.conftest import SMALL, images, write_images

CONFIG = padim.PadimConfig(**{**SMALL.__dict__, "image_size": SMALL.crop})
NAMES = {name: getattr(padim, name) for name in padim.__all__}
OTHERS = {"find_images": find_images, "Fleet": Fleet, "device_mesh": device_mesh, "Method": Method}
OTHERS |= {"TrainingCheckpoint": TrainingCheckpoint, "TrainingHost": TrainingHost}
WITHOUT = {"BACKBONES", "PRESETS"}  # mappings, whose docstring is that of their type
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def prepared(lite0: padim.Backbone) -> dict[str, Any]:
    """What examples take as given."""
    good, test = images(20, CONFIG), images(2, CONFIG, seed=7)
    test[0] = good[0] // 2 + good[1] // 2
    test[1, 8:24, 12:36] = 0
    moments = padim.update(lite0, padim.init(lite0, CONFIG), good)
    model = padim.calibrate(padim.finalize(lite0, moments), good, false_alarm_rate=0.1)
    names = {"padim": padim, "np": np, "jax": jax, "jnp": jnp, "backbone": lite0, "config": CONFIG, "model": model}
    return names | {"moments": moments, "good_images": good, "test_images": test}


def examples(name: str) -> list[doctest.DocTest]:
    whole = (NAMES | OTHERS)[name]
    found = doctest.DocTestFinder(recurse=False).find(whole, name, module=False)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", sorted({*NAMES, *OTHERS} - WITHOUT))
def test_examples_do_what_they_say(name: str, prepared: dict[str, Any], tmp_path: Path) -> None:
    tests = examples(name)
    assert tests, f"{name} has no example"
    write_images(tmp_path / "good", prepared["good_images"][:4])
    for test in tests:
        test.globs.update(prepared, folder=tmp_path)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
        assert not said, "".join(said)


def test_every_public_name_has_a_docstring() -> None:
    assert {name for name, value in NAMES.items() if not (value.__doc__ or "").strip()} == set()
