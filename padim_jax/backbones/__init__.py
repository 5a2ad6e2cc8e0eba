"""Frozen, truncated backbones and where their weights come from."""

from padim_jax.backbones.backbone import (
    Backbone,
    backbone_parameters,
    build_backbone,
    extract,
    parameters_digest,
)
from padim_jax.backbones.spec import BACKBONES, BackboneSpec, Tap, backbone_spec
from padim_jax.backbones.weights import DownloadError, cache_folder, load_backbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "DownloadError",
    "Tap",
    "backbone_parameters",
    "backbone_spec",
    "build_backbone",
    "cache_folder",
    "extract",
    "load_backbone",
    "parameters_digest",
]
