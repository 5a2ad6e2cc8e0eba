"""TensorFlow Datasets and the packages it needs, which come with the extra ``evaluate``."""

from padim_jax.lazy import extra

with extra("evaluate"):
    import importlib_resources  # noqa: F401 - tensorflow-datasets imports it without declaring it
    import tensorflow_datasets as tfds
    from etils import epath

__all__ = ["epath", "tfds"]
