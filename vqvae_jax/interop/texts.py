"""The tokenizer.json of an imported prior that is told texts: no file of weights has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax.data import text as text_files
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.interop.matches import LEARNED_WITH, Match
from vqvae_jax.types import UserError


def tokenizer_of(match: Match, path: Path | None) -> Tokenizer | None:
    """What texts become numbers by; None where none was given.

    Raises:
        UserError: it is none, or has other words than the prior knows; it is not the one that an exported prior learned
            with; the prior is told no texts.
    """
    if path is None:
        return None
    if "text" not in match.facts:
        raise UserError(f"--tokenizer={path}: {match.title} is told no texts; leave it out")
    tokenizer, known = text_files.read(path, match.facts["text"]["length"]), match.facts["text"]["vocab_size"]
    if tokenizer.size > known or (tokenizer.size < known and not match.told):
        raise UserError(
            f"{path} has {tokenizer.size} numbers with the empty one, {match.title} knows {known}: it is not the "
            "tokenizer.json that belongs to it"
        )
    if match.facts.get(LEARNED_WITH) not in (None, tokenizer.crc32):
        raise UserError(
            f"{path} is not the tokenizer that {match.title} learned with, whose texts have other numbers; give the "
            f"{text_files.FILE} of the workdir that it was exported from"
        )
    return tokenizer


def keep(tokenizer: Tokenizer | None, folder: Path) -> dict[str, Any]:
    """Writes it into a workdir, and says what its facts say of it."""
    if tokenizer is None:
        return {}
    (folder / text_files.FILE).write_text(tokenizer.json, "utf-8")
    return {"tokenizer": tokenizer.crc32}


def check_texts(
    match: Match, tokenizer: Tokenizer | None, there: tuple[Mapping[str, Any], Mapping[str, Any]], workdir: Path
) -> None:
    """UserError where other priors of a workdir are told texts in other numbers; there: its config and facts."""
    config, facts = there
    if "text" not in match.facts or not configs.told_texts(config):
        return
    other = {name: config["text"][name] for name in match.facts["text"]} != match.facts["text"]
    known = match.facts.get(LEARNED_WITH) if tokenizer is None else tokenizer.crc32
    if other or (known is not None and facts.get("tokenizer", known) != known):
        raise UserError(f"{workdir} has a prior that is told texts in other numbers; import into a new --workdir")
