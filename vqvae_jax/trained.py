"""A trained workdir as one object: images to tokens, tokens to images, new images.

model = vqvae_jax.load("runs/demo")
tokens = model.encode(images)           # uint8 [N, H, W, C] → int32 maps [N, h, w], coarse to fine
images = model.decode(tokens)           # and back; the top map alone will do: model.decode(tokens[:1])
new = model.sample(count=16, seed=1)    # uint8 [16, H, W, C]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vqvae_jax import asked as asking
from vqvae_jax import codec, likelihood, masks
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.asked import Asked, Label, Texts
from vqvae_jax.checkpoint import GOES_ON, Step, Steps
from vqvae_jax.data import text as text_files
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.drawn import Given, Maps, in_chunks, on_the_way
from vqvae_jax.parts import Parts, autoencoder_checksum
from vqvae_jax.priors.score import LOOKS
from vqvae_jax.sample import text_numbers
from vqvae_jax.scored import best_drawn, check_best_of, check_scores, scored
from vqvae_jax.types import Level, Model, UserError, by_level, unknown


class Flags(NamedTuple):
    """What a user types for another step of the priors and of the autoencoder, with {step} and {stage} in it."""

    priors: str
    autoencoder: str


BOTH = Flags("--step={stage}:{step}", "--autoencoder_step={step}")
IN_PYTHON = Flags("step={{'{stage}': {step}}}", "autoencoder_step={step}")
TRAINING = Flags(GOES_ON, GOES_ON)


class Trained:
    """What was trained in a workdir; its parts are read from disk when they are first used.

    Args:
        workdir: of a training.
        step: of the priors' checkpoints: a number, "best" or None for the latest; by level, {"top": 280}, of some: then
            of the others the best.
        autoencoder_step: the same of the autoencoder's.
        flags: what messages name these two, see `checkpoint.Checkpoints`.
        autoencoder: of priors that were trained on tokens: the workdir of the autoencoder that made these.
        measure: what `evaluate` calls, with this model, a section `dataset` and a number of samples.

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
        measure: Callable[..., dict[str, Any]] | None = None,
    ):
        self.workdir, self.step = Path(workdir).expanduser(), step
        self.autoencoder_step, self.flags, self._measure = autoencoder_step, flags, measure
        stored, self.facts = configs.load(self.workdir), facts_file.read(self.workdir)
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

    def __repr__(self) -> str:
        names, said = self.label_names, [self._data(), *map(str, self.levels)]
        said += [f"prior of {level}: {self.config['priors'][level]['name']}" for level in self._prior_levels]
        said += [f"{len(names)} labels"] if names else []
        return f"<Trained {str(self.workdir)!r}: {'; '.join(said)}>"

    def _data(self) -> str:
        """What it was trained on, in words."""
        if self.facts.get("own"):
            return "own tokens"
        size, channels = self.facts["image_size"], self.facts["channels"]
        return f"{'' if self.has_autoencoder else 'tokens of '}images {size}x{size}x{channels}"

    @property
    def levels(self) -> tuple[Level, ...]:
        """What the maps are like, coarse to fine: name, shape, number of codes, or of numbers a place."""
        return self.parts.levels

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of the training images, as they are counted; () where these have none."""
        return tuple(self.facts["label_names"])

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """By level the codes, float32 [K, D], of several maps [maps, K, D]; quantizers without a table are left out."""
        found = {level: np.asarray(book.codes) for level, book in self.autoencoder[1].codebooks.items()}
        return {level: codes for level, codes in found.items() if codes.size}

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
        """How texts become numbers; None where no prior is told any, or it came from a file, which has no tokenizer."""
        if not configs.told_texts(self.config) or "tokenizer" not in self.facts:
            return None
        return text_files.kept(self.workdir, self.config["text"]["length"], self.facts["tokenizer"])

    @property
    def stride(self) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return self.parts.stride

    def encode(self, images: Any) -> Maps:
        """uint8 [N, H, W, C] → int32 maps [N, h, w], of numbers float32 [N, h, w, C], coarse to fine.

        H and W are multiples of `stride`.

        Raises:
            UserError: images of another type or shape.
        """
        codec.check_images(images, self.facts["channels"], self.stride)
        return tuple(codec.in_batches(self._apply(codec.encode), images, size=codec.batch_size(*images.shape[1:3])))

    def lookup(self, tokens: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """Maps as `decode` takes them → a level each, what its decoder is told: float32 [N, h, w, D].

        Of a level with several maps what they add up to, of its first ones alone too.
        """
        tokens = self._known(tokens)
        module, model = self.autoencoder
        known: Any = tuple(tokens)
        found = []
        groups = by_level(known, module.quantizers)
        for level, quantizer, maps in zip(module.level_names, module.quantizers, groups, strict=False):
            found.append(codec.in_batches(partial(_looked_up, quantizer, model.codebooks[level]), *maps))
        return tuple(found)

    def decode(self, tokens: Sequence[Any], size: Sequence[int] | None = None) -> np.ndarray:
        """Maps [N, h, w], of numbers [N, h, w, C], of all levels or of the upper ones alone → uint8 [N, H, W, C].

        Args:
            tokens: coarse to fine.
            size: (H, W), where upper maps alone, of larger images than those of training, might be another level's.

        Raises:
            UserError: maps of other shapes, of another level, or with numbers that are no codes.
        """
        tokens = self._known(tokens)
        codec.check_level(tokens, self.parts.levels, size and (self.facts["image_size"], *codec.checked_size(size)))
        decode = self._apply(codec.decode)
        at_once = codec.batch_size(*self.pixels(tokens[0]))
        return codec.in_batches(lambda *maps: decode(maps), *tokens, size=at_once)

    def pixels(self, coarsest: Any) -> tuple[int, int]:
        """(H, W) of the images whose first maps these are, [N, h, w] or [N, h, w, C]."""
        height, width = coarsest.shape[1:3]
        trained, (h, w) = self.facts["image_size"], self.parts.levels[0].shape
        return trained * height // h, trained * width // w

    def reconstruct(self, images: Any) -> list[np.ndarray]:
        """uint8 [N, H, W, C] → as many: from the top level alone, from the top two, …, from all."""
        codec.check_images(images, self.facts["channels"], self.stride)
        return codec.in_batches(self._apply(codec.reconstruct), images, size=codec.batch_size(*images.shape[1:3]))

    def sample(
        self, count: int = 16, seed: int = 0, label: Label = None, text: Texts = None, best_of: int = 1, **pick: Any
    ) -> np.ndarray:
        """New images, uint8 [count, H, W, C]; the same seed and count give the same bytes.

        An image depends on its own key and label, not on those beside it.

        Args:
            count: images.
            seed: of all randomness.
            label: one of the data set's labels: text is its name, or else its number; an int its number, from 0, or
                else its name. None draws labels as often as the training data have them, where no text is told.
            text: what is to be seen, one text for all or one for each image. None tells none.
            best_of: so many are drawn of each image, and the one that fits its text best, by `score`, is kept.
            pick: temperature, top_k, top_p, guidance; and fields `sample_…` of priors, for all that have one, or by
                level, {"top": 8}, with "" for all others. What is not said is the config's.
        """
        _ = self.autoencoder  # where there is none, it is said before anything is drawn
        return self.decode(self.sample_tokens(count, seed, label, text, best_of, **pick))

    def sample_tokens(
        self, count: int, seed: int = 0, label: Label = None, text: Texts = None, best_of: int = 1, **pick: Any
    ) -> Maps:
        """As `sample`, but maps, [count, h, w] or of numbers [count, h, w, C], of the levels that have priors."""
        asked = self._asked(count, seed, pick)
        check_best_of(best_of, asked, text, self.facts, self.workdir)
        told = asking.told_anew(asked, self.facts, self.tokenizer, count, label, text)
        return best_drawn(asked, told, best_of)

    def score(self, images: Any, texts: str | Sequence[str], seed: int = 0, looks: int = LOOKS) -> np.ndarray:
        """How well pictures fit texts, float32 [N]: log p(picture | text) - log p(picture | no text), higher is better.

        In nats a picture, of priors of codes. All pictures and texts are looked at with the same keys.

        Args:
            images: uint8 [N, H, W, C], of the size of the training.
            texts: one for all, or one for each.
            seed, looks: the priors that hide tokens or add noise do so so many times; the score is the mean.

        Raises:
            UserError: no prior is told texts, or one that is never learned to do without; pictures of another size.
        """
        self._check_size(images)
        return self.score_tokens(self.encode(images), texts, seed, looks)

    def score_tokens(
        self, tokens: Sequence[Any], texts: str | Sequence[str], seed: int = 0, looks: int = LOOKS
    ) -> np.ndarray:
        """As `score`, of maps as `encode` gives them, of the levels that have priors or of all."""
        self._check_priors()
        check_scores(self.priors, seed, looks, self.workdir)
        maps = self._drawn(tokens)
        numbers = text_numbers(self.tokenizer, len(maps[0]), texts)
        if numbers is None:
            raise UserError("texts: a text for all pictures, or one for each; got None")
        return scored(self.priors, maps, numbers, seed, looks)

    def nll(self, images: Any, label: Any = None, text: Texts = None, seed: int = 0, looks: int = LOOKS) -> np.ndarray:
        """How unlikely the pictures' codes are to the priors, float32 [N]: -log p in nats a picture, lower is likelier.

        All levels together. For bits a pixel of all tokens, divide by log(2) H W. Of a prior that bounds it (MaskGIT)
        the bound.

        Args:
            images: uint8 [N, H, W, C], of the size of the training.
            label: one for all, or one for each, as `sample` takes them; None: the priors are told none.
            text: one for all, or one for each.
            seed, looks: the priors that hide tokens do so so many times; the mean is taken.

        Raises:
            UserError: a prior without likelihood, or that never learned to do without what is not told.
        """
        self._check_size(images)
        return self.nll_tokens(self.encode(images), label, text, seed, looks)

    def nll_tokens(
        self, tokens: Sequence[Any], label: Any = None, text: Texts = None, seed: int = 0, looks: int = LOOKS
    ) -> np.ndarray:
        """As `nll`, of maps as `encode` gives them, of the levels that have priors or of all."""
        self._check_priors()
        likelihood.check_likely(self.priors, {one: self.parts.loss_terms(one) for one in self.priors}, seed, looks)
        maps = self._drawn(tokens)
        numbers = text_numbers(self.tokenizer, len(maps[0]), text)
        told = likelihood.told_each(self.priors, self.label_names, len(maps[0]), label, numbers)
        return likelihood.nll(self.priors, maps, told, seed, looks)

    def evaluate(self, dataset: Mapping[str, Any] | None = None, samples: int | None = None) -> dict[str, Any]:
        """Metrics over the test split, as `python -m vqvae_jax evaluate` has them; they are written to the workdir too.

        Args:
            dataset: changes to the config's section of that name: name, path, test_split.
            samples: that are drawn to measure their distance, 0 none; None: as many as that command draws.

        Raises:
            UserError: the data are not to be had.
        """
        if self._measure is None:
            raise UserError("evaluate() is of what vqvae_jax.load(workdir) gives")
        return self._measure(self, dataset, **({} if samples is None else {"samples": samples}))

    def fill(
        self,
        tokens: Sequence[Any],
        keep: Sequence[Any],
        seed: int = 0,
        label: Label = None,
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
            UserError: maps of other levels or shapes, numbers that are not finite, or one without the other.
        """
        tokens = self._known(tokens)
        asked = self._asked(len(tokens[0]), seed, pick)
        told = asking.told_of(asked, self.facts, self.tokenizer, asked.size, label, text)
        self._check_maps(tokens, asked.size)
        self._check_maps(keep, asked.size, "keep")
        given = Given(tuple(map(np.asarray, tokens)), tuple(np.asarray(one, bool) for one in keep))
        return in_chunks(asked, told, given)

    def complete(
        self,
        images: Any,
        count: int = 1,
        seed: int = 0,
        label: Label = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures whose upper halves are given, continued: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        The upper half of each token map is that of the picture, the lower half is drawn; where maps grow, see
        `masks.kept_of`, what they are of the picture with its lower half filled from above. Without a label or text the
        priors are told none, as by `fill`.
        """
        asked = self._asked_of(images, count, seed, pick)
        lower = ~masks.upper_half(images.shape[:3])
        keep = masks.kept_of(lower, self._drawn_levels)
        known = masks.filled(images, lower) if masks.grows(self._drawn_levels) else images
        return self._redrawn(asked, known, keep, label, text)

    def edit(
        self,
        images: Any,
        mask: Any,
        count: int = 1,
        seed: int = 0,
        label: Label = None,
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
            UserError: pictures or a mask of another size, nothing to be drawn.
        """
        asked, images = self._asked_of(images, count, seed, pick), np.asarray(images)
        mask = masks.checked(mask, images.shape)
        masks.check_widths(images.shape[1], grow=grow, seam=seam)
        keep = masks.kept_of(mask, self._drawn_levels, grow)
        drawn = self._redrawn(asked, masks.filled(images, mask), keep, label, text)
        return masks.pasted(images, drawn, mask, seam)

    def variations(
        self,
        images: Any,
        count: int = 1,
        seed: int = 0,
        label: Label = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures of the same top level, the others drawn anew: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        Arguments are those of `edit`.

        Raises:
            UserError: pictures of another size, no level below the top that a prior draws.
        """
        asked = self._asked_of(images, count, seed, pick)
        if len(self._prior_levels) < 2:
            instead = "edit(images, mask)"
            instead += ", or how much by redraw(images, 0.6)" if asking.begins_as_noise(asked) else ""
            raise UserError(
                f"variations keep the top level and draw those below it, and {self.workdir} has a prior of "
                f"{self._prior_levels[0]!r} alone; say which part is drawn anew: {instead}"
            )
        top = self.parts.maps_of(self._prior_levels[0])
        keep = [np.zeros((len(images), *level.shape), bool) for level in self._drawn_levels]
        keep[top] = [~one for one in keep[top]]
        return self._redrawn(asked, images, keep, label, text)

    def redraw(
        self,
        images: Any,
        strength: float,
        count: int = 1,
        seed: int = 0,
        label: Label = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """Pictures as the beginning of new ones: uint8 [N, H, W, C] → uint8 [N, count, H, W, C].

        Each map is given the noise of the time `strength`, and the prior takes it off again, as it would from there on:
        https://arxiv.org/abs/2108.01073. Priors that draw codes have no such thing.

        Args:
            images: of the size of the training.
            strength: 0 the reconstruction, 1 nothing of the picture: what `sample` draws from this seed.
            count, seed, label, text, pick: as for `edit`.

        Raises:
            UserError: a strength beyond 0 to 1, pictures of another size, a prior of codes.
        """
        asking.check_strength(strength)
        asked = asking.begun_with(self._asked_of(images, count, seed, pick), strength)
        return self._redrawn(asked, images, (), label, text)

    def interpolate(
        self,
        seed: int,
        to_seed: int,
        count: int = 8,
        label: Label = None,
        text: str | None = None,
        **pick: Any,
    ) -> np.ndarray:
        """From one seed's picture to another's, uint8 [count, H, W, C]: the noise goes there along a great circle.

        The ends are what `sample(1, seed)` and `sample(1, to_seed)` give. All are told the same label or text.

        Args:
            seed, to_seed: of the ends.
            count: pictures, both ends among them.
            label, text, pick: as for `sample`.

        Raises:
            UserError: a prior of codes, or of fresh noise in each step; ends of two labels where none is said.
        """
        _ = self.autoencoder
        asked, other = (self._asked(count, one, pick) for one in (seed, to_seed))
        asking.check_between(asked)
        ends = (asking.told_anew(one, self.facts, self.tokenizer, 1, label, text) for one in (asked, other))
        return self.decode(on_the_way(asked, other.seed, asking.told_alike(asked, self.facts["label_names"], *ends)))

    def _asked_of(self, images: Any, count: Any, seed: Any, pick: dict[str, Any]) -> Asked:
        """What is to be drawn of pictures; checked, they as well."""
        asked = self._asked(count, seed, pick)
        self._check_size(images)
        return asked

    def _check_size(self, images: Any) -> None:
        """UserError for images that the priors were not trained on."""
        codec.check_images(images, self.facts["channels"], self.stride)
        size = self.facts["image_size"]
        if images.shape[1:3] != (size, size):
            raise UserError(f"the priors were trained on images of {size} pixels; got {list(images.shape)}")

    def _check_maps(self, maps: Sequence[Any], count: int, name: str = "tokens") -> None:
        """UserError unless there is one of each level that has a prior, for so many images, of the training's size."""
        wanted = [(count, *(level.shape if name == "keep" else level.form)) for level in self._drawn_levels]
        got = [np.shape(one) for one in maps] if isinstance(maps, Sequence) else type(maps).__name__
        if got != wanted:
            raise UserError(f"{name}: a map for each of {wanted}; got {got}")

    def _redrawn(self, asked: Asked, images: Any, keep: Sequence[np.ndarray], label: Label, text: Texts) -> np.ndarray:
        """Pictures with the tokens drawn that are not kept, bool [N, h, w] a level: uint8 [N, count, H, W, C]."""
        told = asking.told_of(asked, self.facts, self.tokenizer, len(images) * asked.size, label, text)
        known = self.encode(images)[: len(self._drawn_levels)]
        each = lambda maps: tuple(np.repeat(one, asked.size, axis=0) for one in maps)  # noqa: E731
        maps = in_chunks(asked, told, Given(each(known), each(keep)))
        return self.decode(maps).reshape(len(images), asked.size, *images.shape[1:])

    def _known(self, tokens: Any) -> list[np.ndarray]:
        """Maps as arrays, checked. One array alone would be read as a map for each of its images."""
        if isinstance(tokens, np.ndarray | jax.Array) or not isinstance(tokens, Iterable):
            kind = f"{tokens.dtype} {list(tokens.shape)}" if hasattr(tokens, "dtype") else type(tokens).__name__
            raise UserError(
                f"tokens are several maps, coarse to fine; one map alone is (map,), as (tokens[0],); got {kind}"
            )
        tokens = [codec.as_map(one) for one in tokens]
        codec.check_tokens(tokens, self.parts.levels)
        return tokens

    def _drawn(self, tokens: Sequence[Any]) -> Maps:
        """Those of the levels that priors are there for, checked."""
        maps = tuple(self._known(tokens)[: len(self._drawn_levels)])
        self._check_maps(maps, len(maps[0]))
        return maps

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
            raise UserError(f"{self.workdir} has an autoencoder of its own; leave autoencoder out")
        lender = Trained(workdir, autoencoder_step=self.autoencoder_step, flags=self.flags)
        if not lender.has_autoencoder:
            raise UserError(f"{workdir} was trained on tokens as well; autoencoder=DIR is where they were encoded")
        learned, made = (model.parts.levels for model in (self, lender))
        # Imported priors do not say of which autoencoder their tokens are.
        if self.facts["autoencoder"] not in (None, lender.checksum) or learned != made:
            raise UserError(
                f"the tokens of {self.workdir} were made by another autoencoder than the one in {workdir}, or by "
                "another step of it; say autoencoder=DIR, and perhaps autoencoder_step, as they were encoded"
            )
        return lender

    def _asked(self, count: Any, seed: Any, pick: dict[str, Any]) -> Asked:
        """How many maps, the seed, how tokens are picked, and the priors as they are to sample; checked."""
        asking.check_asked(self.facts, count, seed, pick)
        self._check_priors()
        return asking.asked_of(self.config["sample"], self.priors, count, seed, pick)

    def _check_priors(self) -> None:
        if not self.config["priors"]:
            raise UserError(f"{self.workdir} was trained without priors, so it cannot sample; evaluate it instead")
        for level in configs.levels(self.config)[: len(self.config["priors"])]:  # the upper levels alone will do
            if level not in self.config["priors"]:
                below = self._prior_levels[0]
                raise UserError(
                    f"{self.workdir} has no prior {level!r}, which {below!r} is told of; import one into this --workdir"
                )
            if level not in self.priors:
                train = f"python launch.py --config={self.workdir / configs.FILE} --workdir={self.workdir}"
                raise UserError(f"the prior {level!r} of {self.workdir} was not trained yet; this goes on: {train}")

    def _apply(self, function: Any) -> Any:
        module, model = self.autoencoder
        return partial(function, module, self.value_range, model)


def _looked_up(quantizer: Any, codebook: Any, *maps: Any) -> Any:
    return quantizer.lookup(codebook, maps)
