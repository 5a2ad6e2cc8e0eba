"""``padim fit --method``: a method that PaDiM is compared with."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.ownership import locked
from padim_jax.backbones import load_backbone
from padim_jax.baselines.manifest import FORMAT
from padim_jax.baselines.registry import parse_method
from padim_jax.commands.calibrate import describe_calibration
from padim_jax.commands.inputs import find_inputs, warn_of_defects
from padim_jax.commands.settings import start_from_preset, with_value_range
from padim_jax.commands.terminal import megabytes, progress_bar, say, tell, wrong_use
from padim_jax.commands.watching import unreadable_option, watching
from padim_jax.runs.fit_method import fit_method


def fit_method_command(
    good_dir: Path,
    out: Path,
    text: str,
    folds: int | None,
    weights: str | None,
    terms: tuple[tuple[Path, ...], float, float],
    reading: tuple[bool, int],
    padims: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Do what ``padim fit --method`` says it does.

    Args:
      good_dir: good images.
      out: folder to write.
      text: the method, as :func:`padim_jax.baselines.registry.parse_method` takes it.
      folds: to calibrate by; None leaves the model uncalibrated.
      weights: of the network.
      terms: folders of images to calibrate on, and the rates of false alarms, of images and of pixels.
      reading: whether to leave out files that can't be read, and how many images are computed at once.
      padims: other options, which only PaDiM has.
      settings: the preset, the network, devices, and settings of :class:`padim_jax.config.PadimConfig`.
    """
    settings = dict(settings)
    preset_name, backbone_name = settings.pop("preset_name"), settings.pop("backbone")
    given = {name: value for name, value in settings.items() if not (value is None or value is False or value == ())}
    given |= {name: value for name, value in padims.items() if value}
    with wrong_use():
        found, own = parse_method(text)
        network_options = {"weights": weights, "backbone": backbone_name} if not found.uses_backbone else {}
        foreign = [name for name in given if name not in found.settings.shared]
        foreign += [name for name, value in network_options.items() if value is not None]
        if foreign:
            option = "--tap" if foreign[0] == "taps" else f"--{foreign[0].replace('_', '-')}"
            raise ValueError(f"{option} is of PaDiM, and {found.name} does not have it; leave it out")
        network, config = start_from_preset(preset_name, backbone_name)
        config = found.shared(config, given)
    check_writable(out, FORMAT)  # now, not after an hour of fitting
    with locked(out, "fit"):
        good = find_inputs([good_dir], out)
        warn_of_defects(good_dir, good.paths)
        (config,) = with_value_range([config], good.paths)
        with wrong_use():
            chosen = found.settings(config=config, **own)
        backbone = None
        if found.uses_backbone:
            with progress_bar("download", unit="MB") as advance:
                backbone = load_backbone(network, weights, progress=megabytes(advance))
        start = time.perf_counter()
        others, false_alarm_rate, pixel_rate = terms
        skip, batch_size = reading
        state = "nothing was kept" if found.uses_backbone else "the same command goes on from there"
        with watching(state, unreadable_option(skip)) as watch:
            try:
                fitted = fit_method(
                    found,
                    backbone,
                    chosen,
                    good.paths,
                    out,
                    folds=folds,
                    others=find_inputs(others).paths if others else None,
                    rates=(false_alarm_rate, pixel_rate),
                    batch_size=batch_size,
                    watch=watch,
                )
            except ValueError as error:
                raise click.ClickException(str(error)) from error
    for path, reason in fitted.skipped.items():
        say(f"skipped {path}: {reason}")
    tell(
        f"{out}: {found.name} ({found.source}){'' if backbone is None else f' with {backbone.spec.name}'}; fitted on "
        f"{len(fitted.paths)} images in {time.perf_counter() - start:.1f} s"
        + (f", {len(fitted.skipped)} skipped" if fitted.skipped else "")
    )
    if fitted.calibration is None:
        why = f" ({fitted.uncalibrated})" if fitted.uncalibrated else "; fit again without --no-calibrate for them"
        say(f"not calibrated: scores come without p-values and verdicts{why}")
    else:
        describe_calibration(fitted.calibration)
