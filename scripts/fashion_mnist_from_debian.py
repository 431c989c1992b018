"""Fashion-MNIST without a network: puts the files of Debian's package into the download cache of TFDS.

    apt-get install dataset-fashion-mnist
    python scripts/fashion_mnist_from_debian.py

Then TFDS prepares its own `fashion_mnist` from them, checksums and all.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = "dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
TIMES = {"train": 1504176606, "t10k": 1504176627}  # seconds since 1970, in the original headers
DATA_DIR = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
HEADER = 10  # bytes of a gzip header without a name


class Download(NamedTuple):
    """Where TFDS looks for a download before it asks the network."""

    url: str
    path: Path
    sha256: str


def main() -> int | str:
    """Places the files; those that are there stay."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data_dir", type=Path, default=DATA_DIR, help="of TFDS; default: %(default)s")
    root = flags.parse_args().data_dir.expanduser()
    missing = [name for name in NAMES if not (FOLDER / name).is_file()]
    if missing:
        return f"{FOLDER / missing[0]} is not there: apt-get update && apt-get install {PACKAGE}"
    try:
        for name, download in downloads(root).items():
            place(name, download)
    except (ImportError, OSError, ValueError) as error:
        return f"the files cannot be placed: {error}"
    print(f"{root}: TFDS prepares fashion_mnist from Debian's files")
    return 0


def downloads(root: Path) -> dict[str, Download]:
    """What TFDS's fashion_mnist downloads, by file name."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist", data_dir=root, file_format="array_record")
    folder = root / "downloads" / builder.name
    file_name = tfds.core.download.resource.get_dl_fname
    return {
        info.filename: Download(url, folder / file_name(url, info.checksum), info.checksum)
        for url, info in builder.url_infos.items()
    }


def original(name: str) -> bytes:
    """Debian's file with the name and time in its header that Debian took out: the upstream file, byte for byte."""
    time = TIMES[name.split("-")[0]].to_bytes(4, "little")
    header = b"\x1f\x8b\x08\x08" + time + b"\x00\x03" + name.removesuffix(".gz").encode() + b"\x00"
    return header + (FOLDER / name).read_bytes()[HEADER:]


def place(name: str, download: Download) -> None:
    """Writes a file and the .INFO without which TFDS does not take it. Raises ValueError if it is not the original."""
    import tensorflow_datasets as tfds

    resource = tfds.core.download.resource
    if resource.is_locally_cached(download.path):
        return
    content = original(name)
    if hashlib.sha256(content).hexdigest() != download.sha256:
        raise ValueError(f"{FOLDER / name} is not the file that TFDS knows; another version of {PACKAGE}?")
    download.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = download.path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, download.path)
    info = tfds.core.download.checksums.UrlInfo(len(content), download.sha256, name)
    resource.write_info_file(download.url, download.path, "fashion_mnist", name, info)


if __name__ == "__main__":
    sys.exit(main())
