"""Frozen, truncated backbones and where their weights come from."""

from typing import TYPE_CHECKING

from padim_jax.backbones.spec import BACKBONES, BackboneSpec, Tap, backbone_spec
from padim_jax.lazy import lazy_attributes

if TYPE_CHECKING:
    from padim_jax.backbones.backbone import (
        Backbone,
        backbone_parameters,
        build_backbone,
        extract,
        parameters_digest,
    )
    from padim_jax.backbones.own import own_backbone
    from padim_jax.backbones.weights import DownloadError, cache_folder, load_backbone
else:  # names and facts are needed also where no network is
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        {
            "padim_jax.backbones.backbone": (
                "Backbone",
                "backbone_parameters",
                "build_backbone",
                "extract",
                "parameters_digest",
            ),
            "padim_jax.backbones.own": ("own_backbone",),
            "padim_jax.backbones.weights": ("DownloadError", "cache_folder", "load_backbone"),
        },
    )

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
    "own_backbone",
    "parameters_digest",
]
