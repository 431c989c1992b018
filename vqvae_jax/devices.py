"""What a command does to JAX before it computes, and where it keeps what can be made again."""

import os
from pathlib import Path

CACHE = "VQVAE_JAX_CACHE"  # environment variable: where compiled programs and decoded images are kept


def cache_dir(kind: str) -> Path:
    """A folder in $VQVAE_JAX_CACHE, else in ~/.cache/vqvae_jax. All in it can be deleted: it is made again."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "vqvae_jax").expanduser() / kind


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, so that the second start is short.

    JAX's own JAX_COMPILATION_CACHE_DIR goes first.
    """
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
