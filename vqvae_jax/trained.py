"""A trained workdir as one object: images to tokens, tokens to images, new images.

model = vqvae_jax.load("runs/demo")
tokens = model.encode(images)           # uint8 [N, H, W, C] → int32 maps [N, h, w], coarse to fine
images = model.decode(tokens)           # and back; the top map alone will do: model.decode(tokens[:1])
new = model.sample(count=16, seed=1)    # uint8 [16, H, W, C]
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec, masks, room
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.backend import memory
from vqvae_jax.checkpoint import GOES_ON, Step, Steps
from vqvae_jax.data import text as text_files
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.parts import Parts, autoencoder_checksum
from vqvae_jax.priors.condition import check_told
from vqvae_jax.priors.draw import draw, maps_at_once
from vqvae_jax.sample import find_label, is_whole, label_numbers, pick_of, say_spare_steps, text_numbers
from vqvae_jax.types import Array, Condition, Level, Model, Pick, Tokens, UserError, unknown

SEEDS = 2**31  # negative ones included
SAMPLER = "sample_"  # how the fields of a prior begin that only its sampler takes
Maps = tuple[np.ndarray, ...]  # token maps, coarse to fine
Texts = str | Sequence[str] | None  # one for all images, or one for each


class Flags(NamedTuple):
    """What a user types for another step of the priors and of the autoencoder, with {step} and {stage} in it."""

    priors: str
    autoencoder: str


BOTH = Flags("--step={stage}:{step}", "--autoencoder_step={step}")
IN_PYTHON = Flags("step={{'{stage}': {step}}}", "autoencoder_step={step}")
TRAINING = Flags(GOES_ON, GOES_ON)


class Asked(NamedTuple):
    """What is to be drawn."""

    size: int  # maps of each level
    seed: int
    pick: Pick
    priors: dict[str, Any]  # by level, as they are to sample


class Told(NamedTuple):
    """What is said of each picture."""

    label: Any  # int32 [N]; the number of labels says none
    text: Any = None  # int32 [N, T]


class Trained:
    """What was trained in a workdir; its parts are read from disk when they are first used.

    Args:
        workdir: of a training.
        step: of the priors' checkpoints: a number, "best" or None for the latest; by level, {"top": 280}, of some: then
            of the others the best.
        autoencoder_step: the same of the autoencoder's.
        flags: what messages name these two, see `checkpoint.Checkpoints`.
        autoencoder: of priors that were trained on tokens: the workdir of the autoencoder that made these.

    Raises:
        UserError: nothing was trained there, or it is damaged; the tokens were made by another autoencoder.
    """

    def __init__(
        self,
        workdir: str | Path,
        step: Steps = "best",
        autoencoder_step: Step = None,
        flags: Flags = IN_PYTHON,
        autoencoder: str | Path | None = None,
    ):
        self.workdir, self.step, self.autoencoder_step, self.flags = Path(workdir), step, autoencoder_step, flags
        stored, self.facts = configs.load(workdir), facts_file.read(self.workdir)
        self.config = configs.located(stored, self.workdir, self.facts.get(configs.BEGUN_IN))
        self.parts = Parts(self.config, self.facts)
        if (size := self.facts["image_size"]) % self.stride:
            where = self.workdir / facts_file.FILE
            raise UserError(f"{where} is damaged (image_size={size} is no multiple of {self.stride}); restore it")
        self._check_levels()
        self._lender = None if autoencoder is None else self._lent(autoencoder)
        if autoencoder_step is not None and not self.makes_pictures:
            flag = flags.autoencoder.partition("=")[0]
            raise UserError(f"{workdir} was trained on tokens, it holds no autoencoder with a step; leave {flag} out")

    @property
    def value_range(self) -> tuple[float, float]:
        """What uint8 0 and 255 are to the model."""
        return (self._lender or self).config["dataset"]["range"]

    @property
    def has_autoencoder(self) -> bool:
        """False where only priors were trained, on tokens."""
        return configs.AUTOENCODER in configs.stages(self.config)

    @property
    def makes_pictures(self) -> bool:
        """Whether there is an autoencoder, its own or another workdir's."""
        return self.has_autoencoder or self._lender is not None

    @cached_property
    def autoencoder(self) -> tuple[Any, Model]:
        """The module and what it learned."""
        if self._lender is not None:
            return self._lender.autoencoder
        if not self.has_autoencoder:
            raise UserError(
                f"{self.workdir} was trained on tokens, it holds no autoencoder; use the workdir DIR where they were "
                f"encoded: python -m vqvae_jax sample --workdir={self.workdir} --autoencoder=DIR samples pictures"
            )
        step, flag = self.autoencoder_step, self.flags.autoencoder
        return self.parts.autoencoder, self.parts.load(self.workdir, configs.AUTOENCODER, step, flag)

    @cached_property
    def priors(self) -> dict[str, tuple[Any, Model]]:
        """By level, coarse to fine: the modules and what they learned; those that were trained so far."""
        trained = [level for level in self._prior_levels if (self.workdir / level / "checkpoints").is_dir()]
        flag = self.flags.priors
        load = lambda level: self.parts.load(self.workdir, level, self._step_of(level), flag)  # noqa: E731
        return {level: (self.parts.prior(level), load(level)) for level in trained}

    def _step_of(self, level: str) -> Step:
        return self.step.get(level, "best") if isinstance(self.step, Mapping) else self.step

    def load(self) -> None:
        """Reads all of it from disk now."""
        _ = self.priors, not self.has_autoencoder or self.autoencoder

    @property
    def checksum(self) -> int:
        """Of the autoencoder: tokens belong together with the one that made them."""
        if not self.has_autoencoder:
            return self.facts["autoencoder"]
        return autoencoder_checksum(self.workdir, self.autoencoder_step, self.flags.autoencoder)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """How texts become numbers; None where no prior is told any."""
        if not configs.told_texts(self.config):
            return None
        return text_files.kept(self.workdir, self.config["text"]["length"], self.facts["tokenizer"])

    @property
    def stride(self) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return configs.autoencoder_kind(self.config).stride(self.config["autoencoder"])

    def encode(self, images: Any) -> Maps:
        """uint8 [N, H, W, C] → int32 maps [N, h, w], of numbers float32 [N, h, w, C], coarse to fine.

        H and W are multiples of `stride`.

        Raises:
            UserError: images of another type or shape.
        """
        codec.check_images(images, self.facts["channels"], self.stride)
        return tuple(codec.in_batches(self._apply(codec.encode), images, size=codec.batch_size(*images.shape[1:3])))

    def decode(self, tokens: Sequence[Any]) -> np.ndarray:
        """Maps [N, h, w], of numbers [N, h, w, C], of all levels or of the upper ones alone → uint8 [N, H, W, C].

        Raises:
            UserError: maps of other shapes, or with numbers that are no codes.
        """
        tokens = [np.asarray(one) for one in tokens]
        codec.check_tokens(tokens, self.parts.levels)
        decode = self._apply(codec.decode)
        size = codec.batch_size(*(self.stride * side for side in tokens[0].shape[1:3]))
        return codec.in_batches(lambda *maps: decode(maps), *tokens, size=size)

    def reconstruct(self, images: Any) -> list[np.ndarray]:
        """uint8 [N, H, W, C] → as many: from the top level alone, from the top two, …, from all."""
        codec.check_images(images, self.facts["channels"], self.stride)
        return codec.in_batches(self._apply(codec.reconstruct), images, size=codec.batch_size(*images.shape[1:3]))

    def sample(
        self, count: int = 16, seed: int = 0, label: str | int | None = None, text: Texts = None, **pick: Any
    ) -> np.ndarray:
        """New images, uint8 [count, H, W, C]; the same seed and count give the same bytes.

        An image depends on its own key and label, not on those beside it.

        Args:
            count: images.
            seed: of all randomness.
            label: one of the data set's labels: text is its name, or else its number; an int its number, from 0, or
                else its name. None draws labels as often as the training data have them, where no text is told.
            text: what is to be seen, one text for all or one for each image. None tells none.
            pick: temperature, top_k, top_p, guidance; and fields `sample_…` of priors, for all that have one, or by
                level, {"top": 8}, with "" for all others. What is not said is the config's.
        """
        _ = self.autoencoder  # where there is none, it is said before anything is drawn
        return self.decode(self.sample_tokens(count, seed, label, text, **pick))

    def sample_tokens(
        self, count: int, seed: int = 0, label: str | int | None = None, text: Texts = None, **pick: Any
    ) -> Maps:
        """As `sample`, but token maps, int32 [count, h, w] each, of the levels that the config has priors for."""
        asked = self._asked(count, seed, pick)
        if text is not None:
            return self._in_chunks(asked, self._told(asked, count, label, text))
        check_all(asked, {"label"})
        labels = label_numbers(self.facts, asked.seed, count, label, self._conditional)
        return self._in_chunks(asked, Told(labels))

    def fill(
        self,
        tokens: Sequence[Any],
        keep: Sequence[Any],
        seed: int = 0,
        label: str | int | None = None,
        text: Texts = None,
        **pick: Any,
    ) -> Maps:
        """Maps in part drawn anew: as `sample_tokens` gives them, with the places where `keep` is True as they were.

        Without a label or text the priors are told none, which they learn by `label_dropout` and `text_dropout` alone.

        Args:
            tokens: maps of the size of the training, of the levels that have priors, as `encode` gives them.
            keep: a bool map [N, h, w] for each: any places.
            seed, label, text, pick: as for `sample`.

        Raises:
            UserError: maps of other levels or shapes, or one without the other.
        """
        asked = self._asked(len(tokens[0]) if len(tokens) else 0, seed, pick)
        told = self._told(asked, asked.size, label, text)
        codec.check_tokens(tokens, self.parts.levels)
        wanted = [(asked.size, *level.shape) for level in self._drawn_levels]
        for name, maps in (("tokens", tokens), ("keep", keep)):
            if [np.shape(one)[:3] for one in maps] != wanted:
                raise UserError(f"{name}: a map for each of {wanted}; got {[np.shape(one) for one in maps]}")
        given = tuple(map(np.asarray, tokens)), tuple(np.asarray(one, bool) for one in keep)
        return self._in_chunks(asked, told, *given)

    def _told(self, asked: Asked, count: int, label: str | int | None, text: Texts) -> Told:
        """What is said of so many images, and nothing else."""
        check_all(asked, {name for name, said in (("label", label), ("text", text)) if said is not None})
        names = self.facts["label_names"]
        number = len(names) if label is None else find_label(label, names, self._conditional)
        return Told(np.full(count, number, np.int32), text_numbers(self.tokenizer, count, text))

    def complete(
        self,
        images: Any,
        count: int = 1,
        seed: int = 0,
        label: str | int | None = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures whose upper halves are given, continued: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        The upper half of each token map is that of the picture, the lower half is drawn. Without a label or text the
        priors are told none, as by `fill`.
        """
        asked = self._asked_of(images, count, seed, pick)
        keep = [masks.upper_half((len(images), *level.shape)) for level in self._drawn_levels]
        return self._redrawn(asked, images, keep, label, text)

    def edit(
        self,
        images: Any,
        mask: Any,
        count: int = 1,
        seed: int = 0,
        label: str | int | None = None,
        text: str | None = None,
        grow: int = 0,
        seam: int = 0,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures of which any part is drawn anew: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        The hole is filled from what is around it before the picture is encoded, so that what was there plays no part.
        A token whose cell touches the hole is drawn, coarse to fine; outside of the hole the pixels stay. A prior that
        draws in raster order (`any_order` is False) is told of kept tokens before a place alone, and of all above it.

        Args:
            images: of the size of the training.
            mask: bool [H, W], [1, H, W] or [N, H, W], True where it is drawn anew. `masks.shifted` makes one beyond an
                edge.
            count: drawings of each picture.
            seed, label, text, pick: as for `sample`; without a label or text the priors are told none, as by `fill`.
            grow: tokens around these that are drawn as well, on each level its own.
            seam: pixels around the hole over which what is drawn goes over into the picture.

        Raises:
            UserError: pictures or a mask of another size, nothing to be drawn, levels of numbers.
        """
        self._check_codes()
        asked, images = self._asked_of(images, count, seed, pick), np.asarray(images)
        mask = masks.checked(mask, images.shape)
        masks.check_widths(images.shape[1], grow=grow, seam=seam)
        keep = [masks.kept(mask, level.shape, grow) for level in self._drawn_levels]
        drawn = self._redrawn(asked, masks.filled(images, mask), keep, label, text)
        return masks.pasted(images, drawn, mask, seam)

    def variations(
        self,
        images: Any,
        count: int = 1,
        seed: int = 0,
        label: str | int | None = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures of the same top level, the others drawn anew: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        Arguments are those of `edit`.

        Raises:
            UserError: pictures of another size, levels of numbers, no level below the top that a prior draws.
        """
        self._check_codes()
        asked = self._asked_of(images, count, seed, pick)
        if len(self._prior_levels) < 2:
            raise UserError(
                f"variations keep the top level and draw those below it, and {self.workdir} has a prior of "
                f"{self._prior_levels[0]!r} alone; say which part is drawn anew: --mask=FILE"
            )
        top = self.parts.maps_of(self._prior_levels[0])
        keep = [np.zeros((len(images), *level.shape), bool) for level in self._drawn_levels]
        keep[top] = [~one for one in keep[top]]
        return self._redrawn(asked, images, keep, label, text)

    def _asked_of(self, images: Any, count: Any, seed: Any, pick: dict[str, Any]) -> Asked:
        """What is to be drawn of pictures; checked, they as well."""
        asked = self._asked(count, seed, pick)
        codec.check_images(images, self.facts["channels"], self.stride)
        size = self.facts["image_size"]
        if images.shape[1:3] != (size, size):
            raise UserError(f"the priors were trained on images of {size} pixels; got {list(images.shape)}")
        return asked

    def _redrawn(
        self, asked: Asked, images: Any, keep: Sequence[np.ndarray], label: str | int | None, text: Texts
    ) -> np.ndarray:
        """Pictures with the tokens drawn that are not kept, bool [N, h, w] a level: uint8 [N, count, H, W, C]."""
        told = self._told(asked, len(images) * asked.size, label, text)
        known = self.encode(images)[: len(keep)]
        each = lambda maps: tuple(np.repeat(one, asked.size, axis=0) for one in maps)  # noqa: E731
        maps = self._in_chunks(asked, told, each(known), each(keep))
        return self.decode(maps).reshape(len(images), asked.size, *images.shape[1:])

    def _check_codes(self) -> None:
        """UserError where a level that is drawn, or without priors would be, holds numbers."""
        for level in self._drawn_levels or self.parts.levels:
            if level.vocab_size is None:
                raise UserError(
                    f"codes are kept and drawn anew, and {level.name!r} is a map of {level.channels} numbers a place; "
                    "take a workdir whose levels have codes"
                )

    @property
    def _drawn_levels(self) -> list[Level]:
        """Those maps that priors are there for."""
        return [level for name in self._prior_levels for level in self.parts.levels[self.parts.maps_of(name)]]

    @property
    def _prior_levels(self) -> list[str]:
        """Those that the config has priors for, coarse to fine."""
        return [stage for stage in configs.stages(self.config) if stage != configs.AUTOENCODER]

    def _check_levels(self) -> None:
        """UserError where steps of priors are said that there are not."""
        for level in self.step if isinstance(self.step, Mapping) else ():
            if level not in self._prior_levels:
                flag = self.flags.priors.partition("=")[0]
                raise UserError(unknown(f"{flag}: there is no prior", level, self._prior_levels, "There are"))

    def _lent(self, workdir: str | Path) -> "Trained":
        """The workdir whose autoencoder made the tokens."""
        if self.has_autoencoder:
            raise UserError(f"{self.workdir} has an autoencoder of its own; leave --autoencoder out")
        lender = Trained(workdir, autoencoder_step=self.autoencoder_step, flags=self.flags)
        if not lender.has_autoencoder:
            raise UserError(f"{workdir} was trained on tokens as well; --autoencoder=DIR is where they were encoded")
        learned, made = (model.parts.levels for model in (self, lender))
        # Imported priors do not say of which autoencoder their tokens are.
        if self.facts["autoencoder"] not in (None, lender.checksum) or learned != made:
            raise UserError(
                f"the tokens of {self.workdir} were made by another autoencoder than the one in {workdir}, or by "
                "another step of it; say --autoencoder=DIR, and perhaps --autoencoder_step, as they were encoded"
            )
        return lender

    def _asked(self, count: Any, seed: Any, pick: dict[str, Any]) -> Asked:
        """How many maps, the seed, how tokens are picked, and the priors as they are to sample; checked."""
        own = {name: pick[name] for name in pick if name.startswith(SAMPLER)}
        pick = {name: value for name, value in pick.items() if name not in own}
        if not is_whole(count) or count < 1 or set(pick) - set(Pick._fields):
            asked = ", ".join(pick) or "nothing else"
            raise UserError(f"count is at least 1, and {', '.join(Pick._fields)} may be said; got {count}, {asked}")
        if not is_whole(seed) or not -SEEDS <= seed < SEEDS:  # JAX would cut off the rest
            raise UserError(f"seed is a whole number between {-SEEDS} and {SEEDS - 1}; got {seed!r}")
        room.check_pictures("count", int(count), self.facts["image_size"], self.facts["channels"])
        self._check_priors()
        return Asked(int(count), int(seed), pick_of(self.config["sample"], **pick), self._samplers(own))

    def _samplers(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The priors by level, with other fields of their samplers: the same weights fit."""
        found = {level: prior for level, (prior, _) in self.priors.items()}
        for name, value in fields.items():
            able = [level for level, prior in found.items() if hasattr(prior, name)]
            said = dict(value) if isinstance(value, Mapping) else {"": value}
            if not able or set(said) - {*able, ""}:
                raise UserError(f"{name}: no such field of the prior {', '.join(set(said) - {*able, ''}) or 'here'}")
            said = dict.fromkeys(able, said[""]) | said if "" in said else said
            said.pop("", None)
            said = {level: one.item() if isinstance(one, np.generic) else one for level, one in said.items()}
            for level, one in said.items():
                configs.check_part(level, type(found[level]), {name: one})
            found |= {level: found[level].clone(**{name: one}) for level, one in said.items()}
        say_spare_steps(found)
        return found

    @property
    def _conditional(self) -> bool:
        """Whether any prior knows labels."""
        return any(prior.label_condition for prior, _ in self.priors.values())

    def _in_chunks(self, asked: Asked, told: Told, known: Maps = (), keep: Maps = ()) -> Maps:
        """Token maps for so many labels; where maps are known, the places to keep are copied."""
        count = len(told.label)

        def chunk(start: int, size: int) -> Tokens:
            rows = lambda x: jnp.asarray(whole_chunk(x[start : start + size], size))  # noqa: E731
            return self._draw(asked, image_keys(asked.seed, start, size), *jax.tree.map(rows, (told, known, keep)))

        def run(size: int) -> Maps:
            drawn = codec.fetched(chunk(start, size) for start in range(0, count, size))
            return tuple(np.concatenate(level)[:count] for level in zip(*drawn, strict=True))

        return codec.halving(run, min(count, maps_at_once(memory())))

    def _draw(self, asked: Asked, keys: Array, told: Told, known: Tokens, keep: Tokens) -> Tokens:
        maps: Tokens = ()
        for i, (level, prior) in enumerate(asked.priors.items()):
            text = told.text if getattr(prior, "text", None) else None
            condition = Condition(told.label if prior.num_labels else None, maps, text)
            own = self.parts.maps_of(level)
            if known and all(map(np.all, keep[own])):  # nothing of it is drawn
                maps += known[own]
                continue
            given = (known[own], keep[own]) if known else ()
            own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            maps += draw(prior, asked.pick, self.priors[level][1], own_keys, condition, *given)
        return maps

    def _check_priors(self) -> None:
        if not self.config["priors"]:
            raise UserError(f"{self.workdir} was trained without priors, so it cannot sample; evaluate it instead")
        for level in configs.levels(self.config)[: len(self.config["priors"])]:  # the upper levels alone will do
            if level not in self.priors:
                train = f"python launch.py --config={self.workdir / configs.FILE} --workdir={self.workdir}"
                raise UserError(f"the prior {level!r} of {self.workdir} was not trained yet; this goes on: {train}")

    def _apply(self, function: Any) -> Any:
        module, model = self.autoencoder
        return partial(function, module, self.value_range, model)


def check_all(asked: Asked, told: Collection[str]) -> None:
    """UserError where a prior would have to do without what it always was told, "label" or "text"."""
    for level, prior in asked.priors.items():
        check_told(prior, asked.pick, told, level)


def image_keys(seed: int, start: int, count: int) -> Array:
    """The keys of the images from number `start` on, [count]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(start, start + count))


def whole_chunk(rows: np.ndarray, size: int) -> np.ndarray:
    """So many rows, the given ones again and again."""
    return np.take(rows, np.arange(size) % len(rows), axis=0)
