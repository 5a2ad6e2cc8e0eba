"""Which version this is, as the installation has it."""

from importlib.metadata import version

__version__ = version("padim-jax")
