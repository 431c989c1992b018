"""Diffusion as a prior over a map of numbers, https://arxiv.org/abs/2112.10752: from noise to data in a few steps.

    a · data + s · noise, time ──┐
    label, text ─────────────────┴→ network → velocity, noise or data

In training a time and noise are drawn for each example and the network foretells what `foretold` says; the loss is the
squared error, a number. A new map begins as noise, and each step follows the data that the network speaks of,
`priors.noise`. The network is DiT or a U-Net, `networks.NETWORKS`.

Which pair of `path` and `foretold` others have: Stable Diffusion 1 "linear", "noise", with times uniform; rectified
flow and SiT "flow", "velocity". Their times are 1,000 numbers, here any between 0 and 1.

Legend: B batch, h w map, C numbers a place, V numbers of a vector, S steps, T places of a text.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.limits import NotNegative, Several, Share
from vqvae_jax.networks.dense import STD, Dense
from vqvae_jax.networks.embed import Embed
from vqvae_jax.networks.likelihood import guide
from vqvae_jax.priors import noise as mixing
from vqvae_jax.priors.condition import check_pick, check_told, guided, told_in
from vqvae_jax.priors.noise import Foretold, Mixed, Path, Spacing, Steps
from vqvae_jax.priors.reading import check_encoder, told
from vqvae_jax.types import Array, Caption, Condition, Level, Pick, Tokens, UserError

BINS = 8  # of times: in evaluation an example is seen once in each


class DiffusionPrior(nn.Module):
    """A distribution over one map of numbers, given a label, a text and the maps above it.

    Attributes:
        maps: its own: one, of numbers.
        above: of the coarser levels, coarse to fine, codes or numbers, none larger than its own. Each place is told
            what lies over it.
        network: what foretells, see `types.Network`.
        num_labels: labels of the data set, 0 where it has none.
        text: what its texts are like; None where none are told. See `reading` for what becomes of them.
        path: from data to noise, see `noise`.
        foretold: what the network says of a map with noise.
        times: of the training: "uniform", or the "logit_normal" of https://arxiv.org/abs/2403.03206, which has most in
            the middle.
        min_snr: γ of https://arxiv.org/abs/2303.09556; 0: all times weigh the same.
        label_condition: whether the label is given.
        label_dropout: share of examples whose label is hidden in training, so that sampling works without one; 0: then
            neither that nor guidance does.
        text_condition, text_dropout: the same of texts.
        sample_steps: how often the network is asked; with guidance it sees every map twice a step.
        sample_order: 1 Euler or DDIM, 2 DPM-Solver++(2M).
        sample_eta: fresh noise in each step, 0 none, 1 as much as DDPM; with order 1.
        sample_spacing: of the steps' times, see `noise.steps_of`.
        sample_guided: times from and to which guidance is done, https://arxiv.org/abs/2404.07724; twice the network's
            work in any case.
        sample_strength: 1 begins with noise; less, where a map is given, with that map and so much noise.
        dtype: of the network; parameters, times, and what is mixed, are float32.
        text_encoder: what reads texts, see `types.TextEncoder`; None: they are told by their words.
    """

    maps: tuple[Level, ...]
    network: nn.Module
    above: tuple[Level, ...] = ()
    num_labels: int = 0
    text: Caption | None = None
    path: Path = "flow"
    foretold: Foretold = "velocity"
    times: Literal["uniform", "logit_normal"] = "uniform"
    min_snr: NotNegative = 0.0
    label_condition: bool = False
    label_dropout: float = 0.1
    text_condition: bool = False
    text_dropout: float = 0.1
    sample_steps: Several = 20
    sample_order: Literal[1, 2] = 2
    sample_eta: Share = 0.0
    sample_spacing: Spacing = "trailing"
    sample_guided: tuple[float, float] = (0.0, 1.0)
    sample_strength: Share = 1.0
    dtype: jnp.dtype = jnp.float32
    text_encoder: nn.Module | None = None

    any_order = True  # a place that is drawn is told of every kept one
    usual_optimizer: ClassVar[Mapping[str, float]] = {"ema_rate": 0.999}  # the field where a config does not say it

    @property
    def held(self) -> tuple[str, ...]:
        """Names of its parameters that no training moves."""
        return ("text_encoder",) if self.text_encoder is not None and self.text_encoder.frozen else ()

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None:
        """UserError unless its own is one map of numbers, and those above are no larger."""
        if len(maps) > 1 or maps[0].vocab_size is not None:
            raise DiffusionPrior.refused(maps[0], maps[0].name.partition(".")[0])
        for level in above:
            if level.shape[0] > maps[0].shape[0] or level.shape[1] > maps[0].shape[1]:
                raise UserError(f"diffusion of {maps[0]} cannot be told of the larger {level}")

    @staticmethod
    def refused(what: object, level: str) -> UserError:
        """Of a level of codes, before its size is known too."""
        return UserError(
            f"diffusion is of one map of numbers, and {what} is of codes; take a prior of codes, "
            f"--config.priors.{level}.name=maskgit, transformer or pixelcnn, or the quantizer 'kl'"
        )

    def setup(self):
        self.fits(self.maps, self.above)
        self._check()
        self.check_sampler()
        if self.label_condition:
            self.embed_label = Embed(self.num_labels + 1, self.network.vector_size, STD)  # the last means "no label"
        check_encoder(self)
        if self.text_encoder is not None and self.text_encoder.pooled:
            self.from_encoder = Dense(self.network.vector_size)
        elif self.text and self.text_encoder is None:
            self.embed_text = Embed(self.text.vocab_size, self.network.vector_size, STD)
            self.place_text = Embed(self.text.length, self.network.vector_size, STD)
        sizes = [level.vocab_size for level in self.above]
        self.embed_above = [None if size is None else Embed(size, self.maps[0].channels) for size in sizes]

    def _check(self) -> None:
        """UserError for a map that the network does not take."""
        stride = self.network.stride
        if any(side % stride for side in self.maps[0].shape):
            raise UserError(f"the network takes maps whose sides are multiples of {stride}; this is {self.maps[0]}")

    @nn.nowrap
    def check_sampler(self) -> None:
        """UserError for a sampler that there is not."""
        if self.sample_order == 2 and self.sample_eta:
            raise UserError("fresh noise goes with steps of first order: sample_eta=0 or sample_order=1")
        if not 0 <= self.sample_guided[0] <= self.sample_guided[1] <= 1:
            raise UserError(f"sample_guided is from a time to a later one, such as 0.1,0.8; got {self.sample_guided}")
        if self.sample_spacing == "leading" and mixing.times(self.sample_steps, "leading")[0] > 1:
            raise UserError(
                f"{self.sample_steps} steps by the spacing 'leading' go beyond the last of {mixing.STEPS}; "
                "take 'trailing', or 50"
            )

    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]:
        """In training {"denoising": at its times and weights}, else {"mse_over_time": at all alike}; float32 [B].

        Both are squared errors, a number. In training it needs the stream "dropout" as well.
        """
        if not train:
            return {"mse_over_time": jnp.mean(self.by_time(maps, condition, keys), axis=1)}
        data = maps[0].astype(jnp.float32)
        time, noise = jax.vmap(self._drawn_in_training)(keys)
        error = self._error(data, time, noise, condition, train=True)
        if self.min_snr:
            error = error * mixing.weight(self.path, self.foretold, mixing.mixed(self.path, time), self.min_snr)
        return {"denoising": error}

    def by_time(self, maps: Tokens, condition: Condition, keys: Array) -> Array:
        """The squared error, a number, at a time of each bin, float32 [B, BINS]."""
        again = lambda x: jnp.repeat(x, BINS, axis=0)  # noqa: E731
        time, noise = jax.vmap(self._drawn_in_evaluation)(keys)
        data, condition = jax.tree.map(again, (maps[0].astype(jnp.float32), condition))
        error = self._error(data, time.reshape(-1), noise.reshape(data.shape), condition)
        return error.reshape(-1, BINS)

    def _error(self, data: Array, time: Array, noise: Array, condition: Condition, train: bool = False) -> Array:
        at = spread(mixing.mixed(self.path, time))
        said = self.foretell(at.data * data + at.noise * noise, time, condition, train=train)
        wanted = mixing.target(self.path, self.foretold, at, data, noise)
        return jnp.mean(jnp.square(said - wanted), axis=(1, 2, 3))

    def foretell(self, x: Array, time: Array, condition: Condition = Condition(), *, train: bool = False) -> Array:
        """What the network says of maps at times in 0 to 1: [B, h, w, C], [B] → float32 [B, h, w, C]."""
        if not train:
            check_told(self, Pick(), told_in(condition))
        vector, context = told(self, condition, len(x), train)
        x = jnp.concatenate([x, *self._above(condition)], axis=-1)
        answer: Array = self.network(x, mixing.heard(self.path, time), vector, context, train=train)
        return answer

    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens:
        """One new map a key, float32 [B, h, w, C]; to be jitted with `pick` static. `pick.temperature` is that of the
        noise; there are no likeliest numbers.

        Where `keep`, bool [B, h, w], is True, the numbers are those of `known`, with the noise of each step's time in
        the steps before, so that all that is drawn is told of them. With `sample_strength` below 1 a map begins as
        that of `known` with so much noise, whether any of it is kept or not.
        """
        return self.sample_from(*self.noise(keys, pick), condition, pick, known, keep)

    def noise(self, keys: Array, pick: Pick) -> tuple[Array, Array]:
        """What maps begin as, float32 [B, h, w, C], and the keys of the fresh noise."""
        first, fresh = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        return pick.temperature * normal(first, self.maps[0].form), fresh

    def sample_from(
        self,
        noise: Array,
        keys: Array,
        condition: Condition,
        pick: Pick,
        known: Tokens | None = None,
        keep: Tokens | None = None,
    ) -> Tokens:
        """As `sample`, from noise [B, h, w, C]; `keys` draw fresh noise alone."""
        check_pick(self, pick, self.maps[0].name)
        if known is not None and not self.sample_strength:
            return (known[0].astype(jnp.float32),)
        x, _ = self._followed(noise, keys, condition, pick, known, keep)
        return (x,)

    def watched(self, keys: Array, condition: Condition, pick: Pick) -> Array:
        """The data that each step of `sample` speaks of, float32 [S, B, h, w, C]; the last is the new map."""
        return self._followed(*self.noise(keys, pick), condition, pick, watch=True)[1]

    def _followed(
        self,
        noise: Array,
        keys: Array,
        condition: Condition,
        pick: Pick,
        known: Tokens | None = None,
        keep: Tokens | None = None,
        watch: bool = False,
    ) -> tuple[Array, Any]:
        """The new maps, and where `watch` the data of each step."""
        condition, twice = guided(self, condition, pick, len(noise))
        steps = self._steps(known is not None)
        prior, variables = self.unbind()  # Linen's modules cannot be called inside a loop, their pure form can
        given = None if known is None or keep is None else (known[0].astype(jnp.float32), keep[0][..., None])

        def step(carry, now):
            x, before, i = carry
            if given is not None:
                x = jnp.where(given[1], now.data * given[0] + now.noise * noise, x)
            time = jnp.full(len(x) * (1 + twice), now.time)
            said = prior.apply(variables, jnp.tile(x, (1 + twice, 1, 1, 1)), time, condition, method="foretell")
            said = guide(said, twice, prior._guidance(now.time, pick.guidance))
            data = mixing.data_of(prior.path, prior.foretold, Mixed(now.data, now.noise), x, said)
            new = None
            if prior.sample_eta:
                new = pick.temperature * normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i), data.shape[1:])
            return (mixing.one_step(now, x, data, before, new), data, i + 1), data if watch else None

        start = noise
        if known is not None and self.sample_strength < 1:
            start = steps.data[0] * known[0].astype(jnp.float32) + steps.noise[0] * noise
        (x, *_), every = lax.scan(step, (start, jnp.zeros_like(noise), jnp.int32(0)), steps)
        return x if given is None else jnp.where(given[1], given[0], x), every

    def _steps(self, known: bool) -> Steps:
        """The numbers of each step, float32 [S]; where a map is `known`, from the noise of `sample_strength` on."""
        strength = self.sample_strength if known else 1.0
        count = max(1, round(strength * self.sample_steps))
        spacing = self.sample_spacing if strength == 1 else "trailing"
        strength = min(strength, mixing.first_time(self.path, self.foretold))
        every = mixing.steps_of(self.path, count, self.sample_order, self.sample_eta, spacing, strength)
        found: Steps = jax.tree.map(lambda row: jnp.asarray(row, jnp.float32), every)
        return found

    def _guidance(self, time: Array, weight: float) -> Any:
        """At a time: that of `pick`, outside of the interval 1."""
        start, end = self.sample_guided
        return weight if (start, end) == (0, 1) else jnp.where((start <= time) & (time <= end), weight, 1.0)

    def _drawn_in_training(self, key: Array) -> tuple[Array, Array]:
        """A time, and noise for the map."""
        when, what = jax.random.split(key)
        time = jax.random.uniform(when)
        if self.times == "logit_normal":
            time = jax.nn.sigmoid(jax.random.normal(when))
        return time, jax.random.normal(what, self.maps[0].form)

    def _drawn_in_evaluation(self, key: Array) -> tuple[Array, Array]:
        """A time in each bin, at even distances, float [BINS], and noise for each."""
        when, what = jax.random.split(key)
        time = (jnp.arange(BINS) + jax.random.uniform(when)) / BINS
        return time, jax.random.normal(what, (BINS, *self.maps[0].form))

    def _above(self, condition: Condition) -> list[Array]:
        """What lies over each place, [B, h, w, C] a coarser map."""
        (height, width), found = self.maps[0].shape, []
        for table, coarse in zip(self.embed_above, condition.coarse, strict=True):
            rows = np.arange(height) * coarse.shape[1] // height
            columns = np.arange(width) * coarse.shape[2] // width
            over = coarse[:, rows[:, None], columns[None]]
            found.append(over.astype(jnp.float32) if table is None else table(over))
        return found


def spread(at: Mixed) -> Mixed:
    """Shares [B], to be multiplied with maps."""
    return Mixed(*(share[:, None, None, None] for share in at))


def normal(keys: Array, form: tuple[int, ...]) -> Array:
    """Noise, each row from its own key: keys [B] → float32 [B, *form]."""
    return jax.vmap(lambda key: jax.random.normal(key, form))(keys)
