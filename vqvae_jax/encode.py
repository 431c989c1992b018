"""Images to a folder of tokens with a trained autoencoder, and a folder of tokens back to pictures."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import codec, data, logs
from vqvae_jax.checkpoint import Step
from vqvae_jax.data import folder
from vqvae_jax.data import text as text_files
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.arrays import shares, wants
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.facts import as_grey, facts_of
from vqvae_jax.files import atomically, check_file, check_new_folder, check_place, png_names
from vqvae_jax.parts import Parts
from vqvae_jax.progress import progress_bar
from vqvae_jax.trained import Flags, Trained
from vqvae_jax.types import UserError

CHUNK = 1024  # images between two looks at the progress, at least
BATCHES = 8  # of which the device has the next while one is fetched, between two looks, at least
FLAGS = Flags("", "--step={step}")  # no priors are read


def encode(workdir: Path, output: Path, dataset: Mapping[str, Any] | None = None, step: Step = None) -> dict[str, int]:
    """Writes the token maps of both splits of a data set, with names, labels and the autoencoder's checksum.

    The split "all" of a folder becomes "train", from which `dataset.name="tokens"` holds some images out.

    Interrupted, the same call goes on. The folder is a data set again: dataset.name="tokens", dataset.path=output.

    Args:
        workdir: of the training whose autoencoder encodes.
        output: a folder; made if missing.
        dataset: changes to the section `dataset` of the workdir's config: name, path, split, …
        step: of the autoencoder's checkpoints: a number, "best" or None for the latest.

    Returns:
        Images by split.

    Raises:
        UserError: the data are not to be had or do not fit the autoencoder; the folder holds other tokens.
    """
    model = Trained(workdir, autoencoder_step=step, flags=FLAGS)
    _refuse_strangers(output)
    asked = data.changed(model.config["dataset"], dataset)
    _check_model(model, asked)
    splits = {name: arrays for name, arrays in _splits(asked, model.facts) if len(arrays)}
    _check(model, asked, splits)
    source = {"autoencoder": model.checksum, "dataset": asked, "images": fingerprint(asked, splits), **_texts(splits)}
    if token_files.is_written(output, source):
        return _counts(output)
    _refuse_others(output)
    facts = {**facts_of(next(iter(splits.values()))), "image_size": asked["image_size"]}
    bar = progress_bar(sum(map(len, splits.values())), 0, "encoding", "image")
    token_files.write(
        output,
        {name: token_files.Part(arrays) for name, arrays in splits.items()},
        Parts(model.config, facts).levels,
        lambda images, _: _watched(model, images, bar),
        facts,
        source,
    )
    bar.close()
    return _counts(output)


def _counts(output: Path) -> dict[str, int]:
    return {split: len(token_files.read(output, split)) for split in token_files.about(output)["shards"]}


def fingerprint(dataset: Mapping[str, Any], splits: Mapping[str, data.Arrays]) -> str:
    """Another one as soon as an image is another, or has another name or label."""
    digest = hashlib.blake2b(digest_size=16)
    for split, arrays in splits.items():
        names = list(arrays.name or ())
        digest.update(json.dumps([split, len(arrays), names, arrays.label_names]).encode())
        digest.update(b"" if arrays.label is None else arrays.label.tobytes())
        if dataset["name"] != "folder":
            digest.update(shares(arrays).tobytes())
    if dataset["name"] == "folder":
        digest.update(folder.fingerprint_of(dataset["path"]).encode())
    return digest.hexdigest()


def _texts(splits: Mapping[str, data.Arrays]) -> dict[str, int]:
    """The checksum of their captions, which may change while the images stay; nothing where there are none."""
    if all(arrays.text is None for arrays in splits.values()):
        return {}
    return {"texts": text_files.checksum(arrays.text for arrays in splits.values())}


def _watched(model: Trained, images: Any, bar: Any) -> list[np.ndarray]:
    """The images' maps; the bar moves on with every chunk."""
    chunks, size = [], _chunk(*images.shape[1:3])
    for start in range(0, len(images), size):
        chunks.append(model.encode(images[start : start + size]))
        bar.add(len(chunks[-1][0]))
    return [np.concatenate(level) for level in zip(*chunks, strict=True)]


def _chunk(height: int, width: int) -> int:
    """Images of so many pixels between two looks at the progress."""
    return max(CHUNK, BATCHES * codec.batch_size(height, width))


def _splits(dataset: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, data.Arrays]]:
    """Name and images of each split, labels counted as the run does; for an autoencoder of grey images grey."""
    for split in dict.fromkeys((dataset["split"], dataset["test_split"])):
        if split:
            arrays = data.read(as_grey(dataset, facts), split).with_labels(facts["label_names"])
            yield "train" if split == folder.ALL else split, arrays


def _check_model(model: Trained, dataset: Mapping[str, Any]) -> None:
    """What is wrong before any image is read."""
    _ = model.autoencoder
    if dataset["name"] == "tokens":
        raise UserError("tokens cannot be encoded, they are encoded already: --images=FOLDER or --dataset=NAME")
    size, trained = dataset["image_size"], model.facts["image_size"]
    if size != trained and any(hasattr(one, "scales") for one in model.parts.autoencoder.quantizers):
        raise UserError(
            f"--image_size={size}: the scales of {model.workdir} end at the code map of {trained} pixels; a folder of "
            f"tokens is of such images: --image_size={trained}, or from Python load(workdir).encode(images)"
        )
    if size % model.stride:
        raise UserError(f"--image_size={size}: it must be a multiple of {model.stride}, which the levels divide")


def _check(model: Trained, dataset: Mapping[str, Any], splits: Mapping[str, data.Arrays]) -> None:
    if not splits:
        raise UserError("there are no images to encode; choose another --dataset or --images")
    channels = model.facts["channels"]
    for name, arrays in splits.items():
        if arrays.image.shape[3] != channels:
            raise UserError(
                f"{wants(channels)}; those of {name!r} have {arrays.image.shape[3]}: give images of its kind"
            )


def _refuse_others(output: Path) -> None:
    """UserError where the folder holds something else; what an interrupted call left is not."""
    if (output / token_files.FILE).exists():
        raise UserError(
            f"{output} holds the tokens of other images or captions, or of another autoencoder; choose another --output"
        )
    _refuse_strangers(output)


def _refuse_strangers(output: Path) -> None:
    """UserError where the folder holds what is no tokens; known before any image is read."""
    check_place("--output", output)
    if not any((output / name).exists() for name in (token_files.FILE, token_files.DRAFT)):
        check_new_folder(output)


def check_new(output: Path) -> None:
    """UserError unless tokens can be written to a new folder of that name."""
    if output.suffix:
        raise UserError(
            f"--output={output}: this workdir draws tokens, which want a new folder, without a suffix; pictures are "
            "made with --autoencoder=DIR, the workdir whose autoencoder encoded the tokens"
        )
    check_new_folder(output)


def write_samples(model: Trained, maps: Sequence[np.ndarray], output: Path) -> None:
    """Drawn token maps [N, h, w], coarse to fine, as a folder of tokens that `decode` reads, of the split `sample`."""
    count = len(maps[0])
    names = tuple(f"{i:06d}" for i in range(count))
    rows = data.Arrays(np.arange(count).reshape(count, 1, 1, 1), name=names, group=names)  # in place of images
    token_files.write(
        output,
        {"sample": token_files.Part(rows)},
        model.parts.levels,
        lambda rows, _: [level[np.asarray(rows[:]).ravel()] for level in maps],
        {name: model.facts[name] for name in ("image_size", "channels", "label_names", "label_counts")},
        {"autoencoder": model.checksum},
    )


def decode(workdir: Path, tokens: Path, output: Path, levels: int = 0, step: Step = None) -> int:
    """Pictures from a folder of tokens: a folder of .png under the names that were encoded, or one .npz.

    Args:
        workdir: of the autoencoder that made the tokens.
        tokens: a folder of them.
        output: a folder, or FILE.npz, which gets uint8 `<split>_image` [N, H, W, C], and `<split>_label`: a data set.
        levels: how many of the maps are used, coarse to fine; 0 all.
        step: as for `encode`.

    Returns:
        How many pictures.

    Raises:
        UserError: tokens of another model, or damaged ones.
    """
    model, told = Trained(workdir, autoencoder_step=step, flags=FLAGS), token_files.about(tokens)
    made_by = told["source"].get("autoencoder", "?")  # None: drawn from imported priors, which do not know
    if made_by is not None and made_by != model.checksum:
        raise UserError(
            f"the tokens in {tokens} were made by another autoencoder than the one in {workdir}: its checksum differs; "
            "decode them with the workdir (and the --step) they were encoded with"
        )
    if levels > len(told["levels"]):
        raise UserError(f"--levels={levels}: the tokens have {len(told['levels'])} levels")
    if output.suffix not in ("", ".npz"):
        raise UserError(f"--output={output}: the name ends in .npz (arrays), or is a new folder")
    check_file("--output", output) if output.suffix else check_new_folder(output)
    splits = {name: token_files.read(tokens, name) for name in told["shards"]}
    bar = progress_bar(sum(map(len, splits.values())), 0, "decoding", "image")
    alone = len(splits) == 1 and output.suffix != ".npz"  # then the folder needs no folder for the split
    pictures = (("" if alone else name, split, _decoded(model, split, levels, bar)) for name, split in splits.items())
    (_write_npz if output.suffix == ".npz" else _write_folder)(output, pictures)
    bar.close()
    return sum(map(len, splits.values()))


def _decoded(model: Trained, tokens: TokenArrays, levels: int, bar: Any) -> Iterator[np.ndarray]:
    """uint8 [n, H, W, C], chunk after chunk."""
    size = _chunk(*model.pixels(tokens.maps[0]))
    for start in range(0, len(tokens), size):
        maps = tokens.rows(np.arange(start, min(start + size, len(tokens))))["tokens"]
        yield model.decode(maps[:levels] if levels else maps, size=model.pixels(maps[0]))
        bar.add(len(maps[0]))


def _write_folder(output: Path, pictures: Any) -> None:
    for name, tokens, chunks in pictures:
        names = png_names(tokens.name or [f"{i:06d}" for i in range(len(tokens))])
        images = (image for chunk in chunks for image in chunk)
        for called, image in zip(names, images, strict=True):
            logs.save_png(output / name / called, image)


def _write_npz(output: Path, pictures: Any) -> None:
    with atomically(output) as path, zipfile.ZipFile(path, "w") as file:
        for name, tokens, chunks in pictures:
            _save(file, f"{name}_image", np.concatenate(list(chunks)))
            if tokens.label is not None:
                _save(file, f"{name}_label", tokens.label)


def _save(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array)
