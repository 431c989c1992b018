"""What a command does to JAX before it computes."""

import os
from pathlib import Path

CACHE = "VQVAE_JAX_CACHE"  # environment variable: where compiled programs are kept; empty for nowhere


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, so that the second start is short.

    In $VQVAE_JAX_CACHE, else in ~/.cache/vqvae_jax/compiled. JAX's own JAX_COMPILATION_CACHE_DIR goes first.
    """
    import jax

    folder = os.environ.get(CACHE, str(Path.home() / ".cache" / "vqvae_jax" / "compiled"))
    if folder and not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", folder)
