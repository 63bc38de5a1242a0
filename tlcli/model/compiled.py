"""Compiled programs, kept on disk between runs: on JAX, compilation can take longer than training."""

import os

import keras

from tlcli.paths import cache_dir

# Size of the folder from which on the oldest programs are deleted, bytes.
MAX_BYTES = 2 * 10**9


def rounded_up(count: int) -> int:
    """The next of a few sizes, up to an eighth larger, so that a program for one number of images serves many.

    >>> [rounded_up(count) for count in (1, 16, 17, 100, 1000, 1025)]
    [1, 16, 18, 104, 1024, 1152]
    """
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def keep_compiled() -> None:
    """Let JAX read compiled programs from the cache folder of tlcli and store new ones there.

    On other backends, and if JAX_COMPILATION_CACHE_DIR names another folder, it does nothing. It holds for the rest of
    the process and must be called before the first computation.
    """
    if keras.backend.backend() != "jax" or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    # Networks consist of hundreds of small programs, each below the limits that are usual for large models.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
