"""What all tests share: switches of JAX, set before its first use, and the option --reference."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

# Compiled programs are kept between runs of the tests, for each Python, since 3.13 cannot read what 3.14 packs; the
# processes that tests start share them.
KEPT = "test-compilation-{}.{}".format(*sys.version_info[:2])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "vqvae_jax" / KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# So do their modules: many processes start, and each would compile them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Most programs here run a few times: LLVM's optimisations take longer than they save, XLA's own stay.
CHEAP = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):  # later ones do not know it, and end at a flag that they do not know
    CHEAP.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*CHEAP, os.environ.get("XLA_FLAGS", "")])  # of two the last one counts
# Whoever has frozen nets on the machine has the same tests; the one that wants them looks for them there.
os.environ.setdefault("TEST_FEATURES", os.environ.get("VQVAE_JAX_FEATURES", ""))
os.environ["VQVAE_JAX_FEATURES"] = "/no such folder/features.npz"
# [B, C] + [C] is often a [B] that forgot its axis.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


# Files that take minutes; beside several processes they must not be the last.
FIRST = ("test_models.py", "test_hosts.py", "test_recipe.py", "test_damaged.py", "test_train.py", "test_golden.py")


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(FIRST)))


def pytest_addoption(parser):
    parser.addoption(
        "--reference",
        metavar="DIR",
        type=Path,
        help="where the PyTorch recordings of whole priors lie: mnist_generator.npz, top_prior.npz, bottom_prior.npz",
    )
