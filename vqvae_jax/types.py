"""The words that every room shares: Codebook, Quantized, Tokens, TrainState, and the contracts of the parts.

Legend: B batch, h w code map, H W image, C channels, K codes, D code size.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Tokens = tuple[Array, ...]  # maps coarse to fine: codes int32 [B, h, w], or numbers float32 [B, h, w, C]


class Level(NamedTuple):
    """What one map is like."""

    name: str  # "top"; of a level with several maps "codes.0", "codes.1"
    shape: tuple[int, int]  # h, w; maps of one level may differ in it
    vocab_size: int | None  # K; None where a place holds numbers
    channels: int = 0  # numbers a place

    def __str__(self) -> str:
        what = f"{self.channels} numbers" if self.vocab_size is None else f"{self.vocab_size} codes"
        return f"{self.name} {self.shape[0]}x{self.shape[1]} of {what}"

    @property
    def form(self) -> tuple[int, ...]:
        """The shape of one map: (h, w), of numbers (h, w, C)."""
        return self.shape if self.vocab_size is not None else (*self.shape, self.channels)

    @property
    def dtype(self) -> str:
        """What a map holds."""
        return "int32" if self.vocab_size is not None else "float32"


class Caption(NamedTuple):
    """What the texts of images are like: int32 [length] each."""

    vocab_size: int  # numbers; 0 is a place where nothing stands
    length: int  # places


class UserError(ValueError):
    """Something the user can put right: one line that names the thing and says what to type next."""

    exit_code = 2  # of the command that ends with it


class NotFinite(UserError):
    """A training or its weights came to NaN or infinity."""

    exit_code = 1


def unknown(sentence: str, word: str, valid: Iterable[str], listing: str = "It has") -> str:
    """The message for a word that is not among the valid ones: the nearest of them, then all."""
    valid = tuple(valid)
    return f"{sentence} {word!r}{guess(word, valid) or '.'} {listing}: {', '.join(valid) or 'none'}"


def guess(word: str, valid: Iterable[str]) -> str:
    """What ends a message about a word: the nearest of the valid ones, where one is near."""
    near = difflib.get_close_matches(str(word), tuple(valid), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


@struct.dataclass
class Codebook:
    """All that a quantizer remembers; it lives in the train state and in the checkpoint."""

    if TYPE_CHECKING:  # flax.struct gives it

        def replace(self, **changes: Any) -> "Codebook": ...

    codes: Array  # [K, D] float32; several tables [depth, K, D]; where there is none [0, D]
    params: dict[str, Array] = struct.field(default_factory=dict)  # other arrays that the optimizer moves
    stats: dict[str, Array] = struct.field(default_factory=dict)  # what only the quantizer moves: idle steps, EMA sums


class Quantized(NamedTuple):
    """What a quantizer makes of a batch z_e [B, …, D]: of vectors, sequences, images, videos."""

    z_q: Array  # as z_e, straight-through
    indices: Tokens  # one map as z_e without D, or of numbers with them; residual quantizers one a depth
    losses: dict[str, Array]  # unweighted scalars, by name
    codebook: Codebook  # after this batch; unchanged unless train=True
    fresh: Array | None  # bool, as codes without D: revived in this step; the task clears their optimizer moments


class Quantizer(Protocol):
    """A frozen dataclass of hyper-parameters; its methods are pure functions of arrays."""

    @property
    def input_dim(self) -> int: ...  # channels it wants

    @property
    def output_dim(self) -> int: ...  # channels of z_q

    @property
    def vocab_sizes(self) -> tuple[int | None, ...]: ...  # codes per map, None where it holds numbers

    def init(self, key: Array) -> Codebook: ...

    def __call__(
        self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False
    ) -> Quantized: ...

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array: ...  # z_q, without gradient to the encoder


def map_names(level_names: Iterable[str], quantizers: Iterable[Quantizer]) -> tuple[str, ...]:
    """One name a token map: the level's, numbered where a level has several: "codes.0", "codes.1"."""
    names: list[str] = []
    for level, quantizer in zip(level_names, quantizers, strict=True):
        depths = len(quantizer.vocab_sizes)
        names += [level] if depths == 1 else [f"{level}.{i}" for i in range(depths)]
    return tuple(names)


def by_level(tokens: Tokens, quantizers: Iterable[Quantizer]) -> list[Tokens]:
    """Token maps, or a coarse prefix of them, level by level: each is what that level's `lookup` takes."""
    groups = []
    for quantizer in quantizers:
        depths = len(quantizer.vocab_sizes)
        groups += [tokens[:depths]] if tokens else []
        tokens = tokens[depths:]
    return groups


class Reconstruction(NamedTuple):
    """What an autoencoder makes of a batch of images."""

    images: Array  # [B, H, W, C] float, in the range of the input
    tokens: Tokens
    losses: dict[str, Array]  # unweighted scalars: "reconstruction", "commitment/top", …
    codebooks: dict[str, Codebook]  # by level, after this batch
    fresh: dict[str, Array]  # by level, as in Quantized
    levels: tuple[Array, ...]  # each decoder's own output, coarse to fine; the last belongs to the image


def reconstruction(
    image: Array, coded: Mapping[str, Quantized], losses: Mapping[str, Array], levels: tuple[Array, ...]
) -> Reconstruction:
    """Put together from what each level's quantizer gave, coarse to fine, and the autoencoder's own losses."""
    of_codes = {f"{term}/{name}": value for name, one in coded.items() for term, value in one.losses.items()}
    return Reconstruction(
        images=image.astype(jnp.float32),
        tokens=sum((one.indices for one in coded.values()), ()),
        losses={**of_codes, **losses},
        codebooks={name: one.codebook for name, one in coded.items()},
        fresh={name: one.fresh for name, one in coded.items() if one.fresh is not None},
        levels=levels,
    )


class Autoencoder(Protocol):
    """A Linen module that is handed its quantizers.

    The stage fills in `quantizers`, `channels` and `dtype`; all other fields are the config's. One of pixels in one
    range alone says so by a static `image_range(fields)`.
    """

    quantizers: tuple[Quantizer, ...]  # one a level
    channels: int  # of the image
    dtype: Any  # what the layers compute in

    # From the config's fields: the names of its levels, coarse to fine, and what an image's sides are multiples of.
    @staticmethod
    def names(fields: Mapping[str, Any]) -> tuple[str, ...]: ...

    @staticmethod
    def stride(fields: Mapping[str, Any]) -> int: ...

    @property
    def level_names(self) -> tuple[str, ...]: ...  # coarse to fine

    # Path in params of the kernel that makes the image: VQ-GAN's adaptive weight compares gradients there.
    @property
    def last_kernel(self) -> tuple[str, ...]: ...

    def init_codebooks(self, key: Array) -> dict[str, Codebook]: ...

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction: ...

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens: ...

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array: ...  # any non-empty coarse prefix


class Condition(NamedTuple):
    """What a prior is told. Missing parts are None."""

    label: Array | None = None  # int32 [B]; the number of labels means "no label"
    coarse: Tokens = ()  # the token maps above, coarse to fine
    text: Array | None = None  # int32 [B, T]; 0 where nothing stands, zeros alone are "no text"


class Pick(NamedTuple):
    """How a token is picked from logits. temperature 0 takes the likeliest; top_k 0 and top_p 1 keep all."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0  # weight of label and text: 1 plain, above 1 sharper


class Network(Protocol):
    """A Linen module: what a diffusion prior asks what lies under the noise.

    The stage fills in `channels` and `dtype`; all other fields are the config's.
    """

    channels: int  # numbers a place of the answer
    dtype: Any  # what the layers compute in

    @property
    def vector_size(self) -> int: ...  # V, of the vector that it is told beside the time

    @property
    def stride(self) -> int: ...  # what the map's sides are multiples of

    # A map, more numbers a place than `channels` where it is told some; times of 0 to 1000; a vector [B, V]; vectors
    # that are attended to [B, S, D], or None → float32 [B, h, w, channels]. In training the stream "dropout" is there.
    def __call__(
        self, x: Array, time: Array, vector: Array | None = None, context: Array | None = None, *, train: bool = False
    ) -> Array: ...


class TextEncoder(Protocol):
    """A Linen module: what a diffusion prior reads texts with.

    The stage fills in `text` and `dtype`; all other fields are the config's.
    """

    text: Caption  # what its texts are like
    dtype: Any  # what the layers compute in
    frozen: bool  # whether its weights stay as they are
    pooled: bool  # whether a prior's network is told its vector, or the states alone
    weights: str  # the file that a training begins with; "" for fresh ones

    # int32 [B, T], zeros alone are no text → states that are attended to [B, S, D], and one vector [B, D]; float32.
    def __call__(self, text: Array) -> tuple[Array, Array]: ...


class Prior(Protocol):
    """A Linen module: a distribution over the maps of one level, given a label and the maps above it.

    The stage fills in `maps`, `above`, `num_labels` and `dtype`; all other fields are the config's. One that can be
    told texts has also text: Caption | None, which the stage fills in, text_condition and text_dropout. One with parts
    that no training moves names them, `held`. One that draws in steps may have `watched`, what each step speaks of, for
    pictures; one with noise `by_time`, losses in bins; one whose fields `sample_…` must go together `check_sampler`.
    One that wants other fields of `optimizer` where a config does not say them names them, `usual_optimizer`.
    """

    maps: tuple[Level, ...]  # what it models: one map, or several: one a depth, or of growing sizes
    above: tuple[Level, ...]  # the maps of the coarser levels, coarse to fine
    num_labels: int  # of the data set, 0 where it has none
    dtype: Any  # what the layers compute in
    label_condition: bool  # whether it is told the label,
    label_dropout: float  # and from how many training examples that is hidden: 0 means it always wants one
    # Whether a place that is drawn is told of every kept one; False: of those before it in raster order, or, where the
    # prior has `sees`, a text for users, of what that says.
    any_order: bool

    @staticmethod
    def fits(maps: tuple[Level, ...], above: tuple[Level, ...]) -> None: ...  # UserError where it cannot model them

    # By name, each [B] and unweighted: "nll" in nats a token where it is a likelihood or bounds one, "mse", …
    # keys: one an example, for its noise and masks; an example's loss does not depend on the others of its batch.
    # In training the stream "dropout" is there too.
    def loss(self, maps: Tokens, condition: Condition, keys: Array, *, train: bool = False) -> dict[str, Array]: ...

    # New maps, one of each an example; they depend on its own key and condition only, whatever is drawn beside it.
    # keep: a bool map [B, h, w] for each of `known`, True where the place is copied from it and not drawn.
    # One whose maps begin as noise has also noise(keys, pick), what they begin as and keys for the rest, then
    # sample_from(noise, keys, condition, …), and sample_strength: with `known` and without `keep` they begin as `known`
    # with the noise of that time, 0 to 1.
    def sample(
        self, keys: Array, condition: Condition, pick: Pick, known: Tokens | None = None, keep: Tokens | None = None
    ) -> Tokens: ...


@struct.dataclass
class TrainState:
    """All that a step reads and writes. `key` never changes: a step's key is folded from `step`."""

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "TrainState": ...

    step: Array  # int32 scalar
    params: Any
    codebooks: dict[str, Codebook]
    opt_state: Any
    ema_params: Any  # None where no average of the weights is kept
    key: Array


@struct.dataclass
class Model:
    """What sampling needs, and nothing else: the checkpoint's item `model`."""

    params: Any  # averaged over steps where that is kept
    codebooks: dict[str, Codebook]


class Task(Protocol):
    """What one training step is. The loop knows nothing else of a model.

    One that trains an autoencoder is made of (autoencoder, tx, loss_weights, range=, flip=, crop=, ema_rate=,
    accumulate=) and of the other fields of `config.task`; `tx` is None where it only evaluates. The state is any pytree
    with `step`, an int32 scalar: a TrainState, or one with more players.
    """

    # UserError for a loss weight of no term, a term without one, and what does not go with a training of so many steps
    # on images of so many pixels, height and width.
    def check(self, terms: Iterable[str], steps: int | None = None, image_size: int | None = None) -> None: ...

    def init(self, key: Array, batch: dict[str, Array]) -> Any: ...

    def frozen(self) -> Any: ...  # arrays that every step reads and none moves; placed once, in no checkpoint

    # What is computed in the step after so many, hashable: one program a phase.
    def phase(self, step: int) -> Any: ...

    def train_step(
        self, state: Any, batch: dict[str, Array], frozen: Any, phase: Any
    ) -> tuple[Any, dict[str, Array]]: ...

    def model(self, state: Any) -> Model: ...  # what sampling needs: never a critic

    def start_from(self, state: Any, model: Model) -> Any: ...  # another run's weights

    def eval_step(self, model: Model, batch: dict[str, Array]) -> dict[str, Array]: ...  # additive sums, masked

    def summary(self, sums: dict[str, Any]) -> dict[str, float]: ...

    def pictures(self, model: Model, batch: dict[str, Array], key: Array) -> dict[str, Any]: ...  # name → uint8 grid


class Observer(Protocol):
    """What watches a training's logged steps: the doctor."""

    def remarks(self, step: int, values: Mapping[str, Any]) -> list[str]: ...  # lines for the log


class Data(Protocol):
    """A batch is a pure function of (seed, step): resuming needs no iterator state."""

    @property
    def steps_per_epoch(self) -> float: ...

    def batch(self, step: int) -> dict[str, Any]: ...

    def evaluation(self) -> Iterator[dict[str, Any]]: ...  # covers the split once, padded, with "mask"

    def close(self) -> None: ...  # lets go of threads and files
