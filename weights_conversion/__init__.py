"""Pure functions from published weights to Flax parameter trees: NumPy alone, no PyTorch.

``convert(name, read_checkpoint(path))`` is the whole way.
"""

from weights_conversion.architectures import ARCHITECTURES
from weights_conversion.checkpoint import CheckpointError, read_checkpoint, read_training_checkpoint
from weights_conversion.convert import ConversionError, convert, flatten, identify, unflatten

__all__ = [
    "ARCHITECTURES",
    "CheckpointError",
    "ConversionError",
    "convert",
    "flatten",
    "identify",
    "read_checkpoint",
    "read_training_checkpoint",
    "unflatten",
]
