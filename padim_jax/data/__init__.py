"""Images from disk: finding, reading, batching."""

from padim_jax.data.folder import Batch, FoundImages, find_images, load_batches, stop_at_unreadable
from padim_jax.data.image import UnreadableImage, read_image

__all__ = ["Batch", "FoundImages", "UnreadableImage", "find_images", "load_batches", "read_image", "stop_at_unreadable"]
