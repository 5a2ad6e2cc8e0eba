"""What a folder holds, and who is fitted on and who is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from padim_jax.data.catalogue import Category, assign_roles, find_categories, prepare
from padim_jax.data.elpv import demo_split
from padim_jax.data.examples import list_examples
from padim_jax.data.protocol import STANDARD
from padim_jax.evaluation.run import Run
from padim_jax.presets import preset
from tests.datasets import write_image, write_shanghaitech


def test_a_pair_of_the_demos_images_is_split_as_the_demo_does(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    split = demo_split()
    for name, paths in (("good", [*split.fit, *split.good]), ("bad", split.defective[:2])):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for path in paths:
            (tmp_path / "cells" / name / path.name).symlink_to(path)
    (category,) = find_categories(tmp_path / "cells", tmp_path / "prepared")
    builder = category.build()
    prepare(builder)
    listed, fit = list_examples(builder, "good"), assign_roles(builder).fit.indices
    assert fit is not None
    assert [listed[index].file_name for index in fit] == [f"good/{path.name}" for path in split.fit]


def test_parts_named_as_a_category_are_the_users_own(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        write_image(tmp_path / "parts" / "screw" / name / "0.png", np.zeros((64, 64, 3), np.uint8))
    (category,) = find_categories(tmp_path / "parts", tmp_path / "prepared")
    assert (category.data, category.name) == ("image_folder_ad", "screw")


def test_shanghaitech_is_not_cropped(tmp_path: Path) -> None:
    campus = write_shanghaitech(tmp_path / "campus", {"01_001": 6}, {"01_0014": 6})
    (category,) = find_categories(campus, tmp_path / "prepared", ["01"])
    (member,) = Run(category, preset("r18-rd100"), 0, STANDARD).members
    assert (member.image_size, member.crop_size, member.interpolation) == (256, 256, "bicubic")


def test_other_sizes_and_weights_are_not_compared_with_what_is_published(tmp_path: Path) -> None:
    category = Category("mvtec_ad", "bottle", tmp_path, tmp_path)
    plain = Run(category, preset("r18-rd100"), 0, STANDARD)
    assert plain.as_published
    assert not replace(plain, settings={"image_size": 300}).as_published
    assert not replace(plain, weights="random").as_published
