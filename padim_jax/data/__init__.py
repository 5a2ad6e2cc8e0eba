"""Images from disk: finding, reading, batching."""

from padim_jax.data.folder import (
    FoundImages,
    UnreadableImage,
    find_images,
    load_batches,
    read_image,
    stop_at_unreadable,
)

__all__ = ["FoundImages", "UnreadableImage", "find_images", "load_batches", "read_image", "stop_at_unreadable"]
