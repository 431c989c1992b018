"""The process that prepares a TFDS data set: python -m vqvae_jax.data.tfds_prepare NAME DATA_DIR

It alone imports TensorFlow. Prints one line of JSON, {} where all went well; everything else goes to standard error.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

RETRIES = 1  # of a connection; TFDS has 10, which take minutes
TIMEOUT = (5, 60)  # seconds until a server accepts a connection, and between two parts of its answer


def main() -> None:
    """Ends the process at once, also where threads still wait for a server."""
    name, root = sys.argv[1:]
    code = 1
    try:
        with contextlib.redirect_stdout(sys.stderr):
            report = prepare(name, Path(root))
        print(json.dumps(report), flush=True)
        code = 0
    except Exception:
        traceback.print_exc()
    os._exit(code)


def prepare(name: str, root: Path) -> dict[str, Any]:
    """Prepares `name` below `root` in array_record.

    Returns:
        {} or what went wrong: {"error": its type, "text": one line, "missing": {URL: the path that TFDS looks at}}.
    """
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    missing = _watch_downloads()
    builder = tfds.builder(name, data_dir=root, file_format="array_record")

    def stop(number: int, _: Any) -> None:
        # Raising here instead could leave a lock of TFDS held, and its clean-up would wait for it for ever.
        if Path(builder.data_dir).name.startswith("incomplete."):
            shutil.rmtree(builder.data_dir, ignore_errors=True)
        _remove_parts(missing)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except Exception as error:
        if tfds.builder(name, data_dir=root, file_format="array_record").is_prepared():
            return {}  # another run was faster
        _remove_parts(missing)
        network = isinstance(error, _network_errors())
        wanted = {url: str(path) for url, path in missing.items() if not path.exists()} if network else {}
        return {"error": type(error).__name__, "text": _text(error), "missing": wanted}
    return {}


def _text(error: Exception) -> str:
    import requests

    request = error.request if isinstance(error, requests.ConnectionError) else None
    if request is not None:
        return f"{request.url!s} cannot be reached"  # without the six errors that it came from
    return " ".join(str(error).split())[:300]


def _network_errors() -> tuple[type[Exception], ...]:
    import urllib.error

    import requests
    from tensorflow_datasets.core.download import util

    return (requests.exceptions.RequestException, urllib.error.URLError, util.DownloadError)


def _watch_downloads() -> dict[str, Path]:
    """Makes downloads fail soon and take files put into the cache by hand.

    Returns:
        URL → the path in the download cache, of all that TFDS asks the network for; filled as it does.
    """
    import requests
    from tensorflow_datasets.core.download import download_manager, downloader

    downloader.MAX_RETRIES = RETRIES
    adapter = requests.adapters.HTTPAdapter
    send = adapter.send

    def send_in_time(self: Any, request: Any, **options: Any) -> Any:
        return send(self, request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    manager = download_manager.DownloadManager
    download = manager._download
    asked: dict[str, Path] = {}

    def download_or_take(self: Any, resource: Any) -> Any:
        info = self._url_infos.get(resource.url)
        path = self._get_dl_path(resource, info and info.checksum)
        if path.exists():
            return _take(self, resource.url, path, info)
        asked[resource.url] = Path(path)
        return download(self, resource)

    adapter.send = send_in_time  # type: ignore[assignment, method-assign]
    manager._download = download_or_take
    return asked


def _take(manager: Any, url: str, path: Any, expected: Any) -> Any:
    """A file that lies in the cache without its .INFO: somebody put it there. Its checksum is looked at."""
    import promise
    from tensorflow_datasets.core.download import checksums, resource

    found = checksums.compute_url_info(path)
    manager._register_or_validate_checksums(url=url, url_info=found, path=path)
    info = expected or found
    resource.write_info_file(url, path, manager._dataset_name, info.filename or path.name, info)
    return promise.Promise.resolve(path)


def _remove_parts(asked: dict[str, Path]) -> None:
    """What failed downloads left."""
    from tensorflow_datasets.core.download.resource import get_dl_fname

    for url, path in asked.items():
        for folder in path.parent.glob(f"{get_dl_fname(url)}.tmp.*"):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
