"""A field of the settings carries its rule and its help, and the commands' options are made of them."""

import inspect
import re

import click
import pytest

import padim_jax as padim
from padim_jax.cli import COMMANDS
from padim_jax.commands.lazy_click import named
from padim_jax.config import SETTINGS


@pytest.mark.parametrize("name", SETTINGS)
def test_a_field_has_a_rule_that_its_default_keeps_and_a_line_in_the_docstring(name: str) -> None:
    setting, default = SETTINGS[name], getattr(padim.PadimConfig(), name)
    assert setting.is_valid(default)
    assert setting.normalise(default) == default
    assert not setting.is_valid(object())
    assert f"\n  {name}: " in inspect.cleandoc(padim.PadimConfig.__doc__ or "")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("command", ["fit", "fit-many"])
def test_a_command_that_fits_has_an_option_for_every_field_with_its_help_and_default(command: str, name: str) -> None:
    options = {str(option.name): option for option in named(COMMANDS[command].place).params}
    option = options[name]
    assert isinstance(option, click.Option)
    assert option.help is not None
    assert option.help.startswith(SETTINGS[name].help)
    assert re.search(r" Default: [^.]+(\.\d+)?\.$", option.help)
    default = getattr(padim.PadimConfig(), name)
    assert SETTINGS[name].default is not None or f"Default: {default}." in option.help


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "value_range"])  # evaluate reads 8-bit images
def test_evaluate_has_an_option_for_every_field_that_may_be_repeated(name: str) -> None:
    options = {str(option.name): option for option in named(COMMANDS["evaluate"].place).params}
    fit_options = {str(option.name): option for option in named(COMMANDS["fit"].place).params}
    option = options[name]
    assert isinstance(option, click.Option)
    assert (option.opts, option.multiple) == (fit_options[name].opts, True)
    default = "those of --seeds" if name == "seed" else "the preset's"
    assert option.help == f"{SETTINGS[name].help} Default: {default}."


def test_an_image_too_large_to_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size=10000, wanted at most 89 megapixels"):
        padim.PadimConfig(image_size=(10000, 10000))
