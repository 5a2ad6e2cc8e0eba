"""What a command that computes does first; JAX is imported here, and not to show a help text."""

import logging
import os
from contextlib import suppress


def start() -> None:
    """Keep compiled programs, and keep the libraries' messages off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # messages of XLA and Gloo; jaxlib reads this when it is loaded
    _keep_compiled()
    with suppress(ImportError):  # it makes its logger when imported, and fails on one that is there
        import absl.logging  # noqa: F401
    # warnings of Orbax and TFDS; what matters is raised as an error
    logging.getLogger("absl").setLevel(logging.ERROR)


def _keep_compiled() -> None:
    """Keep compiled programs in the cache folder, so that the next process starts without compiling them.

    JAX files them under a digest of program, versions and processor; ``JAX_COMPILATION_CACHE_DIR`` moves them. A folder
    that can't be written only costs the time to compile.
    """
    import jax

    from padim_jax.backbones import cache_folder

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small programs are many
