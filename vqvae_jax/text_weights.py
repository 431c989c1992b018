"""The weights of others that a prior's text encoder begins with: `config.priors.LEVEL.text_encoder.weights`.

They are read when a training starts, never again: its checkpoints hold them. The run's facts hold the file's checksum.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vqvae_jax import facts as facts_file
from vqvae_jax.config.sections import TEXT_ENCODER
from vqvae_jax.data import text as text_files
from vqvae_jax.interop import clip
from vqvae_jax.parts import Parts
from vqvae_jax.types import Model, UserError

CHUNK = 1 << 22  # bytes


def file_of(section: Mapping[str, Any]) -> Path | None:
    """The file that a prior's section names; None where there is none, or all weights are another run's."""
    named = section.get(TEXT_ENCODER, {}).get("weights", "")
    return Path(named) if named and not section["train"]["init_from"] else None


def check(config: Mapping[str, Any], level: str) -> None:
    """UserError for a training of a prior that would begin without what its text encoder knows."""
    section, path = config["priors"][level], f"--config.priors.{level}.{TEXT_ENCODER}"
    encoder, text, file = section.get(TEXT_ENCODER, {}), config["text"], file_of(section)
    if file is None:
        if encoder.get("frozen") and not section["train"]["init_from"]:
            raise UserError(
                f"a frozen text encoder that knows nothing says nothing: {path}.weights=FILE of CLIP, or "
                f"{path}.frozen=false"
            )
        return
    if not file.is_file():
        raise UserError(f"{path}.weights={file}: there is no such file")
    if not text["tokenizer"]:
        raise UserError(
            f"{path}.weights={file}: its words are those of its tokenizer.json: --config.text.tokenizer=FILE"
        )
    size = text_files.read(Path(text["tokenizer"]), text["length"]).size
    if size != encoder["vocab"] + 1:
        raise UserError(
            f"{text['tokenizer']} has {size} numbers with the empty one, the text encoder a table of "
            f"{encoder['vocab']} words: it is not the tokenizer.json that belongs to it"
        )


def given(parts: Parts, level: str) -> Callable[[Model], Model] | None:
    """Shapes of a prior → the part of it that is in the file; None where there is none."""
    file = file_of(parts.config["priors"][level])
    if file is None:
        return None
    encoder = parts.prior(level).text_encoder
    return lambda like: Model({TEXT_ENCODER: clip.weights(file, encoder, like.params[TEXT_ENCODER])}, {})


def checksums(config: Mapping[str, Any], workdir: Path) -> dict[str, int]:
    """CRC32 of the files by level; of one that is gone, as it was when the run began."""
    files = {level: file for level, section in config["priors"].items() if (file := file_of(section))}
    before = facts_file.read(workdir).get(TEXT_ENCODER, {}) if facts_file.are_written(workdir) else {}
    return {level: _crc32(file) if file.is_file() else before.get(level, 0) for level, file in files.items()}


def _crc32(file: Path) -> int:
    found = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return found
