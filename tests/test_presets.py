"""Presets are what they are called, and published figures agree with their own means."""

import json
import statistics
from pathlib import Path

import pytest

import padim_jax as padim
from padim_jax.baselines import METHODS
from padim_jax.data.mvtec_ad import COUNTS
from padim_jax.evaluation.paper import TABLES
from padim_jax.evaluation.published import published
from padim_jax.evaluation.results import COSTS, METRICS, OBJECTS, TEXTURES
from padim_jax.presets import PRESETS, preset

ROWS = json.loads(
    (Path(__file__).parent.parent / "padim_jax" / "evaluation" / "published.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_fit_the_backbone(name: str) -> None:
    found = preset(name)
    assert found.name == name
    for member in found.members:
        taps = padim.BACKBONES[found.backbone].select(member.taps)
        assert (member.n_channels or 1) <= sum(tap.channels for tap in taps)
        # the paper crops (section IV-B); ours see the whole image
        side = 224 if found.backbone == "efficientnet_lite0" else 256
        ridge = "auto" if name in ("auto", "lite0-plus", "lite0-pooled") else 0.01
        assert (member.image_size, member.crop_size, member.ridge, member.sigma) == (side, 224, ridge, 4.0)


def test_the_papers_models() -> None:
    r18, wr50, b5 = (preset(name) for name in ("r18-rd100", "wr50-rd550", "efficientnet-b5"))
    assert (r18.backbone, r18.members[0].n_channels) == ("resnet18", 100)
    assert (wr50.backbone, wr50.members[0].n_channels) == ("wide_resnet50_2", 550)
    assert b5.backbone == "efficientnet_b5"
    assert {found.members[0].interpolation for found in (r18, wr50, b5)} == {"bicubic"}


def test_the_papers_ablations() -> None:
    taps = [preset(f"r18-layer{n}").members[0] for n in (1, 2, 3)]
    assert [(member.taps, member.n_channels) for member in taps] == [
        (("layer1",), 64),
        (("layer2",), 128),
        (("layer3",), 256),
    ]
    assert preset("r18-sum").members == tuple(taps)
    assert preset("r18-all").members[0].n_channels == 448
    pca, drawn = preset("r18-pca100").members[0], preset("r18-rd100").members[0]
    assert (pca.projection, pca.n_channels) == ("principal-components", drawn.n_channels)


def test_seeds_reach_every_member() -> None:
    assert [member.seed for member in preset("r18-sum").with_seed(7)] == [7, 7, 7]


def test_unknown_preset_lists_the_others() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'r50'; choose one of lite0, .*wr50-rd550"):
        preset("r50")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['preset']} {row['protocol']} {row['metric']}")
def test_published_rows(row: dict) -> None:
    of_the_paper = {entry.published for table in TABLES.values() for entry in table.rows}
    assert row["preset"] in (METHODS if "backbone" in row else {*PRESETS, *of_the_paper})
    assert row["metric"] in {*METRICS, *COSTS}
    assert row["source"]
    if row["metric"] in COSTS:
        assert set(row["values"]) == {"mean"}
        return
    known = {"mvtec_ad": {*COUNTS, "textures", "objects", "mean"}, "shanghaitech_campus": {"all"}}[row["data"]]
    assert set(row["values"]) <= known
    assert all(0 < value <= 1 for value in row["values"].values())


@pytest.mark.parametrize("row", [row for row in ROWS if {"textures", "objects", "mean"} <= set(row["values"])], ids=str)
def test_published_means_weigh_five_textures_and_ten_objects(row: dict) -> None:
    values = row["values"]
    # the paper's means were taken before rounding, and some are rounded to whole percents
    assert (5 * values["textures"] + 10 * values["objects"]) / 15 == pytest.approx(values["mean"], abs=0.0035)


@pytest.mark.parametrize("row", [row for row in ROWS if {"carpet", "mean"} <= set(row["values"])], ids=str)
def test_published_means_are_those_of_their_categories(row: dict) -> None:
    for name, group in (("textures", TEXTURES), ("objects", OBJECTS), ("mean", tuple(COUNTS))):
        # the means were taken before rounding
        assert statistics.fmean(row["values"][part] for part in group) == pytest.approx(row["values"][name], abs=0.0015)


def test_published_is_looked_up_by_protocol_and_category() -> None:
    found = published("wr50-rd550", "mvtec_ad", "rotated", "mean")
    assert (found["pro"].value, found["pro"].source) == (0.731, "PaDiM, arXiv 2011.08785, Table VI")
    assert published("wr50-rd550", "mvtec_ad", "standard", "mean")["image_auroc"].value == 0.953
    assert published("wr50-rd550", "mvtec_ad", "standard", "bottle")["image_auroc"].value == 0.998
    assert published("lite0", "mvtec_ad", "standard", "bottle") == {}
