"""Images from disk: finding, reading, batching; and from what the network saw back to their pixels."""

from padim_jax.images.decode import UnreadableImage
from padim_jax.images.folder import Batch, FoundImages, find_images, load_batches, stop_at_unreadable
from padim_jax.images.geometry import mask_to_original, seen, to_original
from padim_jax.images.image import read_image
from padim_jax.images.roi import check_roi_size, read_roi, read_roi_of
from padim_jax.images.values import find_value_range

__all__ = [
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
]
