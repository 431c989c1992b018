"""What a command does to JAX before it computes, and where it keeps what can be made again."""

import contextlib
import os
import platform
import sys
from pathlib import Path

LARGE_PAGES = "glibc.malloc.hugetlb"  # of GLIBC_TUNABLES; set to 0 there, it is left alone
CACHE = "VQVAE_JAX_CACHE"  # environment variable: where compiled programs and decoded images are kept
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def cache_dir(kind: str) -> Path:
    """A folder in $VQVAE_JAX_CACHE, else in ~/.cache/vqvae_jax. All in it can be deleted: it is made again."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "vqvae_jax").expanduser() / kind


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, so that the second start is short.

    JAX's own JAX_COMPILATION_CACHE_DIR goes first. Each Python has a folder: JAX finds the same program by the same
    name, but packs it by what that Python has, Zstandard from 3.14 on, which 3.13 cannot read.
    """
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir(f"compiled-{PYTHON}")))


def check_platform() -> None:
    """UserError where JAX_PLATFORMS asks for devices that are not there."""
    import jax

    from vqvae_jax.types import UserError

    asked = getattr(jax.config, "jax_platforms", None)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where its plugin is not installed
        if not asked:
            raise
        raise UserError(
            f"JAX_PLATFORMS={asked}, but JAX finds no such device here, only {_platforms(asked)}; leave JAX_PLATFORMS "
            "out, or install what it needs: docs/accelerators.md"
        ) from error


def _platforms(asked: str) -> str:
    """Those that are there, when no one is asked for."""
    import jax

    jax.config.update("jax_platforms", "")
    try:
        return ", ".join(sorted({device.platform for device in jax.devices()}))
    finally:
        jax.config.update("jax_platforms", asked)


def use_large_pages() -> None:
    """Starts this program anew, once, with memory in pages of 2 MB: a training step is 15 to 20 % shorter on CPU.

    XLA takes its memory from the system anew in every step, in pages of 4 KB unless the C library asks for larger ones;
    it can be told so only at the start of a program. For programs' first line: nothing happens where it is set already,
    where JAX is there already, or where the program came from standard input.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    can_start_anew = sys.executable and sys.argv[0] not in ("", "-") and "jax" not in sys.modules
    on_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if on_glibc and can_start_anew and LARGE_PAGES not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{LARGE_PAGES}=1")))
        with contextlib.suppress(OSError):  # then it goes on as it is
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
