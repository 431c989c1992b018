"""How large a training is and how long it takes, before it is begun: each stage's shapes, and three of its steps.

Nothing is written but what any start would keep in the cache. The steps are the training's own, on its images; a prior,
whose codes are not there yet, takes codes at random. Of a critic's training they are the last ones, which take longest.
"""

import datetime
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vqvae_jax import room, train
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.recipe import Recipe, say
from vqvae_jax.stages import Stage, batches_of, task_of

STEPS = 3  # that are timed


class Timed(NamedTuple):
    """What the steps of a stage took."""

    compiling: float  # seconds
    step: float  # seconds, the shortest
    memory: int | None  # bytes of a device, while a step runs; None where the compiler does not say


def dry_run(config: Mapping[str, Any], workdir: Path, only: str | None = None) -> int:
    """Prints it, a stage after the other; the exit code, 0.

    Raises:
        UserError: what the training itself would be refused for.
    """
    recipe = Recipe(config, workdir)
    recipe.inspect(only)
    total = 0.0
    for stage in recipe.stages.values():
        if only in (None, stage.name) and stage.steps:  # without any it takes weights as they are
            timed = tried(recipe, stage)
            total += timed.compiling + stage.steps * timed.step
            tell("\n".join(said(recipe, stage, timed)))
    tell(f"in all {duration(total)}, beside evaluations, pictures and samples; {workdir} is as it was")
    return 0


def tell(text: str) -> None:
    """From the first process."""
    if jax.process_index() == 0:
        print(text, flush=True)


def said(recipe: Recipe, stage: Stage, timed: Timed) -> Iterator[str]:
    """What there is to know of a stage, a line each."""
    batch, memory = stage.section["batch_size"], "not known" if timed.memory is None else room.said(timed.memory)
    there = "" if (found := room.there_is()) is None else f" of {room.said(found)}"
    epochs = stage.steps * batch / stage.examples
    yield f"{stage.name}: {stage.steps:,} steps of {batch}, {epochs:.3g} epochs of {stage.examples:,} examples"
    yield f"    {sizes(stage.parts.abstract(stage.name))}"
    yield f"    {maps(recipe, stage)}"
    yield f"    memory of a step {memory}{there}"
    whole = duration(stage.steps * timed.step)
    yield f"    {timed.step:.3g} s a step, {whole}, after {timed.compiling:.0f} s of compiling"


def sizes(model: Any) -> str:
    """Parameters and codes, in words."""
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    books = {level: book.codes.shape for level, book in model.codebooks.items() if math.prod(book.codes.shape)}
    tables = [f"{level} {'x'.join(map(str, shape))}" for level, shape in books.items()]
    return f"{count(model.params):,} parameters" + (f", codes of {', '.join(tables)}" if tables else "")


def maps(recipe: Recipe, stage: Stage) -> str:
    """What goes in and what comes out, in words: the maps of one image."""
    if stage.name == AUTOENCODER:
        size, channels = recipe.facts["image_size"], recipe.facts["channels"]
        return f"{size}x{size}x{channels} to {_listed(stage.parts.levels)}"
    prior = stage.parts.prior(stage.name)
    return _listed(prior.maps) + (f", told {', '.join(map(str, prior.above))}" if prior.above else "")


def _listed(levels: Any) -> str:
    tokens = sum(math.prod(level.shape) for level in levels)
    return f"{', '.join(map(str, levels))}: {tokens:,} tokens an image"


def tried(recipe: Recipe, stage: Stage) -> Timed:
    """Three steps, by the program that the training runs."""
    say(f"{stage.name}: {STEPS} steps")
    splits = examples(recipe, stage)
    settings = {**stage.section, "steps": stage.steps}
    data = batches_of(splits, settings, recipe.config["seed"])
    run = train.Run(task_of(stage.parts, stage.name, stage.steps), data, data, settings)
    state, batch = run.begin(jax.random.key(0), None), run.place(data.batch(0))
    begun = time.monotonic()
    step = run.step.lower(state, batch, run.frozen, run.task.phase(stage.steps - 1)).compile()
    compiling, took = time.monotonic() - begun, []
    for _ in range(STEPS):
        begun = time.monotonic()
        state, metrics = step(state, batch, run.frozen)
        jax.block_until_ready((state, metrics))
        took.append(time.monotonic() - begun)
    return Timed(compiling, min(took), held(step))


def held(step: Any) -> int | None:
    """Bytes of a device that a compiled program holds at once: what goes in and comes out, and what is between."""
    if (found := step.memory_analysis()) is None:
        return None
    outside = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(outside + found.temp_size_in_bytes)


def examples(recipe: Recipe, stage: Stage) -> Any:
    """What it is trained on; in place of codes that are not there yet a batch of others."""
    images = recipe.splits["train"]
    if stage.name == AUTOENCODER or recipe.from_tokens:
        return images
    rows = np.arange(stage.section["batch_size"]) % len(images)
    noise, label = np.random.default_rng(0), None if images.label is None else images.label[rows]
    text = images.text and tuple(images.text[row] for row in rows)
    drawn = tuple(of_level(noise, level, len(rows)) for level in recipe.parts.levels)
    return TokenArrays(drawn, label, text=text).told(recipe.tokenizer)


def of_level(noise: np.random.Generator, level: Any, count: int) -> np.ndarray:
    """So many maps of a level, at random."""
    shape = (count, *level.form)
    if level.vocab_size is None:
        return noise.normal(size=shape).astype(np.float32)
    return noise.integers(0, level.vocab_size, shape, dtype=np.int32)


def duration(seconds: float) -> str:
    """For people: 0:12:36."""
    return str(datetime.timedelta(seconds=round(seconds)))
