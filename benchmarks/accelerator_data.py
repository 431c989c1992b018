"""What accelerator.py needs where there is no network: python benchmarks/accelerator_data.py [--reference=DIR …]

Into .accelerator/ (ignored by git): OpenMoji at 32 and 64 px, MNIST where there is one, recordings of PyTorch, wheels
of the packages that a bare JAX machine lacks, and a checkout of the PyTorch reference if one is given. It ends with the
size of all of it, which together with the tree stays under 60 MiB.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKED = ROOT / ".accelerator"
SIZES = (32, 64)  # pixels
PARTS = ("train", "test")
WHEELS = {"ml_collections": "ml-collections", "dm_pix": "dm-pix", "tensorboardX": "tensorboardx"}  # module: package
MOST = 60 << 20  # bytes


def main() -> None:
    given = read_flags()
    PACKED.mkdir(exist_ok=True)
    pack_openmoji()
    if given.mnist:
        shutil.copy(given.mnist, PACKED / "mnist.npz")
    for folder in given.reference:
        pack_recordings(folder)
    if given.pytorch:
        shutil.copytree(given.pytorch / "vq_vae_2", PACKED / "vq-vae-2" / "vq_vae_2", dirs_exist_ok=True)
    pack_wheels()
    size = sum(path.stat().st_size for path in PACKED.rglob("*") if path.is_file())
    print(f"{PACKED}: {size / 2**20:.1f} MiB")
    if size > MOST:
        raise SystemExit(f"error: more than {MOST >> 20} MiB; leave recordings out")


def read_flags() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--reference", metavar="DIR", type=Path, action="append", default=[], help="recordings, .npz")
    flags.add_argument("--pytorch", metavar="PATH", type=Path, help="a checkout of github.com/unixpickle/vq-vae-2")
    flags.add_argument("--mnist", metavar="FILE", type=Path, help="MNIST as .npz, see vqvae_jax/data/npz.py")
    return flags.parse_args()


def pack_openmoji() -> None:
    """Drawings with names, labels and stems: one .npz a size."""
    sys.path.insert(0, str(ROOT))
    from vqvae_jax.data import openmoji

    for size in SIZES:
        arrays = {}
        for part in PARTS:
            split = openmoji.read("", part, size)
            facts = {"label_names": split.label_names, "text": split.text, "stem": split.group}
            facts["label"] = np.asarray(split.label).tolist()
            arrays |= {f"{part}_image": np.asarray(split.image), f"{part}_facts": np.array(json.dumps(facts))}
        np.savez_compressed(PACKED / f"openmoji_{size}.npz", **arrays)


def unpacked(packed: Path, folder: Path) -> str:
    """The packed drawings laid out as vqvae_jax/data/openmoji.py opens them; "" where nothing is packed."""
    for size in SIZES:
        file = packed / f"openmoji_{size}.npz"
        if not file.is_file():
            return ""
        from vqvae_jax.data.openmoji import VERSION

        there = folder / "open_moji" / f"{size}px" / VERSION
        there.mkdir(parents=True)
        with np.load(file, allow_pickle=False) as arrays:
            for part in PARTS:
                np.save(there / f"{part}.npy", arrays[f"{part}_image"])
                (there / f"{part}.json").write_text(str(arrays[f"{part}_facts"]), "utf-8")
    return str(folder)


def pack_recordings(folder: Path) -> None:
    """Those that are read today and do not lie in tests/reference; the others stay where they are."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from accelerator_rows import READ

    (PACKED / "reference").mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.npz")):
        if path.stem in READ and not (ROOT / "tests" / "reference" / path.name).is_file():
            shutil.copy(path, PACKED / "reference" / path.name)


def pack_wheels() -> None:
    """Any Python's, without what they need: a machine with JAX and Flax has that."""
    folder = PACKED / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    pins = (ROOT / "requirements-demo.txt").read_text("utf-8").splitlines()
    wanted = [line for line in pins if line.startswith(tuple(f"{package}==" for package in WHEELS.values()))]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*command, *wanted], check=True)


if __name__ == "__main__":
    main()
