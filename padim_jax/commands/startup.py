"""What every command does before its work: JAX is imported here at the earliest, not to show a help text."""

import logging
import os


def start() -> None:
    """Keep compiled programs, and keep the libraries' own messages off the terminal."""
    _keep_compiled()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's warnings; what matters comes as an error


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
