"""Labelled data sets, by TensorFlow Datasets where it has them.

Image files are read by :mod:`padim_jax.images`; its names can be imported from here too, where they used to be.
"""

from padim_jax.lazy import lazy_attributes

_MOVED = (
    "Batch",
    "FoundImages",
    "UnreadableImage",
    "check_roi_size",
    "find_images",
    "find_value_range",
    "load_batches",
    "mask_to_original",
    "read_image",
    "read_roi",
    "read_roi_of",
    "seen",
    "stop_at_unreadable",
    "to_original",
)
__getattr__, __dir__ = lazy_attributes(__name__, {"padim_jax.images": _MOVED})
