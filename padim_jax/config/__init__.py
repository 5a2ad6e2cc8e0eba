"""The settings of a fit, and the rules of what values they may have."""

from padim_jax.config.settings import (
    FALSE_ALARM_RATE,
    PIXEL_RATE,
    RIDGE,
    SETTINGS,
    AnomalyMap,
    Form,
    Interpolation,
    PadimConfig,
    PaperTableName,
    Precision,
    ProtocolName,
    Regulariser,
    Size,
    TableFormat,
    differences,
)

__all__ = [
    "FALSE_ALARM_RATE",
    "PIXEL_RATE",
    "RIDGE",
    "SETTINGS",
    "AnomalyMap",
    "Form",
    "Interpolation",
    "PadimConfig",
    "PaperTableName",
    "Precision",
    "ProtocolName",
    "Regulariser",
    "Size",
    "TableFormat",
    "differences",
]
