"""Collapse that explains itself: which level, since when, what to try. Reads the metrics that a training logs.

recent_usage/LEVEL     share of the codes that were used in the last RECENT steps
batch_perplexity/MAP   of one batch; a level has one map, LEVEL, or several, LEVEL.0, LEVEL.1
code_norm/LEVEL        median length of the codes; code_norm_max/LEVEL the longest
away/LEVEL             root mean square of the distance from a vector to its code, in lengths of a code looked up
kl/LEVEL               of codes that are drawn, how far a place is from saying nothing, in nats
revived/LEVEL          codes that got a new value in this step
active/LEVEL           of a map of numbers, the share that varies from place to place and image to image
critic_right           share of the patches that a critic judges rightly; there is one in adversarial trainings
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

RECENT = 100  # steps
LOW = 0.2  # of the codes: below, a level has collapsed
FEW = 2.0  # perplexity of a batch: below, one code does nearly all
LONG = 100.0  # times the median length: such a code flew off
AWAY = 5.0  # lengths of a code between a vector and its code: above, the encoder has run away; healthy is below 1
SILENT = 0.1  # nats a place: where codes are drawn from no more, all are alike likely
STILL = 0.1  # standard deviation of a number, that of the prior is 1: below, it says nothing
IDLE = 0.5  # share of a place's numbers: where fewer vary, the level has collapsed
PATIENCE = 3  # logged steps in a row before anything is said
CRITIC = "the critic"  # is watched like a level
CHANCE = (0.45, 0.55)  # of patches judged rightly: it knows nothing
CRITICS_PATIENCE = 6  # logged steps in a row: a young critic knows nothing for a while
WON = 0.97  # of patches judged rightly: nothing that the autoencoder could do is good enough


class Illness(NamedTuple):
    """What is wrong with one level."""

    level: str
    since: int  # step
    what: str
    advice: str

    def __str__(self) -> str:
        named = f"{self.level} {self.what}" if self.level == CRITIC else f"{self.level}: {self.what}"
        return f"{named}, since step {self.since}; {self.advice}"

    @property
    def remark(self) -> str:
        """As a line of its own."""
        return f"{'' if self.level == CRITIC else 'collapse of '}{self}"

    @property
    def patience(self) -> int:
        """Logged steps in a row that it lasts before it is said."""
        return CRITICS_PATIENCE if self.level == CRITIC else PATIENCE


class Doctor:
    """Watches the levels of one training, logged step after logged step."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()):
        self._ill: dict[str, list[tuple[int, Illness]]] = {}  # level → the logged steps of its present illness
        for entry in entries:
            self.see(entry["step"], self.read(entry))

    @staticmethod
    def read(entry: Mapping[str, Any]) -> dict[str, Any]:
        """What a line of the log says of training."""
        return {name.removeprefix("train/"): v for name, v in entry.items() if name.startswith("train/")}

    def see(self, step: int, values: Mapping[str, Any]) -> list[Illness]:
        """What becomes certain with this logged step: an illness is told once, when it has lasted."""
        told = []
        maps = [one for name in values for kind, _, one in [name.partition("/")] if kind in WATCHED]
        levels = dict.fromkeys(level_of(one) for one in maps)
        for level in [*levels, *([CRITIC] if {CRITIC_RIGHT, PUSHES} <= values.keys() else [])]:
            found = look_at_critic(step, values) if level == CRITIC else look(level, step, values)
            before = self._ill.get(level, [])
            if found and before and level == CRITIC and before[-1][1].advice != found.advice:
                before = []  # another illness begins
            self._ill[level] = [*before[: found.patience], (step, found)] if found else []
            if found and len(before) + 1 == found.patience:
                told.append(found._replace(since=before[0][0] if before else step))
        return told

    def remarks(self, step: int, values: Mapping[str, Any]) -> list[str]:
        """As `see`, in words for the log."""
        return [one.remark for one in self.see(step, values)]

    def present(self) -> list[Illness]:
        """The illnesses that have lasted to the end."""
        lasting = [seen for seen in self._ill.values() if seen and len(seen) >= seen[-1][1].patience]
        return [seen[-1][1]._replace(since=seen[0][0]) for seen in lasting]


def look(level: str, step: int, values: Mapping[str, Any]) -> Illness | None:
    """What one logged step shows of a level; codes have RECENT steps' time to be used at all."""
    usage = values.get(f"recent_usage/{level}")
    usual, longest = values.get(f"code_norm/{level}"), values.get(f"code_norm_max/{level}")
    if step >= RECENT and usage is not None and usage < LOW:
        return Illness(level, step, f"only {usage:.0%} of its codes were used in {RECENT} steps", unused(level, values))
    if usual and longest and longest > LONG * usual:
        return Illness(level, step, f"a code is {longest / usual:.0f} times as long as most", FLOWN)
    if step < RECENT:
        return None
    active = values.get(f"active/{level}")
    if active is not None and active < IDLE:
        return Illness(level, step, f"only {active:.0%} of its numbers vary", CLOSED)
    away = values.get(f"away/{level}")
    if away is not None and away > AWAY:
        return Illness(level, step, f"vectors lie {away:.0f} times a code's length from their codes", RUN)
    perplexity, one = least_varied(level, values)
    if perplexity < FEW:
        what = f"one code does nearly all{'' if one == level else f' of {one}'}, batch perplexity {perplexity:.1f}"
        return Illness(level, step, what, drawn(level, values) or alike(level, values))
    return None


def level_of(one: str) -> str:
    """The level of a map: "codes" of "codes.1", see `types.map_names`."""
    return one.partition(".")[0]


def least_varied(level: str, values: Mapping[str, Any]) -> tuple[float, str]:
    """The smallest perplexity of a level's maps and that map's name; infinity where none is known.

    A map whose codes are all used is well, if they are but two.
    """
    named = ((name.partition("/"), value) for name, value in values.items() if value is not None)
    found = [
        (value, one)
        for (kind, _, one), value in named
        if kind == PERPLEXITY and level_of(one) == level and values.get(f"batch_usage/{one}") != 1
    ]
    return min(found, default=(math.inf, level))


def look_at_critic(step: int, values: Mapping[str, Any]) -> Illness | None:
    """What one logged step shows of a critic."""
    if (right := values[CRITIC_RIGHT]) is None:
        return None
    if CHANCE[0] < right < CHANCE[1]:
        return Illness(CRITIC, step, f"is at chance, {right:.0%} of the patches judged rightly", NOVICE)
    return Illness(CRITIC, step, f"has won, {right:.0%} of the patches judged rightly", MASTER) if right > WON else None


def unused(level: str, values: Mapping[str, Any]) -> str:
    """What to try where codes lie idle."""
    if advice := drawn(level, values):
        return advice
    if values.get(f"revived/{level}"):
        return (
            "codes are revived and not kept, the encodings lie too close together: try a lower learning rate, a "
            f"smaller --config.loss_weights.commitment, or fewer codes for {level}"
        )
    return IDLE_CODES


def alike(level: str, values: Mapping[str, Any]) -> str:
    """What to try where all places have one code, by the loss terms that the quantizer has."""
    if f"entropy/{level}" in values:
        return SIGNS
    return ONE if f"commitment/{level}" in values else BARE


def drawn(level: str, values: Mapping[str, Any]) -> str | None:
    """The same where codes are drawn, by the quantizer gumbel, and the KL term holds them in use; None elsewhere."""
    kl = values.get(f"kl/{level}")
    if kl is None:
        return None
    return HELD if kl < SILENT else SURE


PERPLEXITY = "batch_perplexity"
COUNTED = ("recent_usage", "active")  # over many steps, or of numbers: where one of them is logged, all is watched
WATCHED = (*COUNTED, PERPLEXITY)  # one of them is logged for every level
CRITIC_RIGHT = "critic_right"
PUSHES = "adversarial"  # is logged where the critic has its say; before, it learns alone and may be right as it likes
NOVICE = (
    "what it says is noise; in a new --workdir: more steps alone, a larger --config.task.lead and --config.task.start, "
    "a higher --config.task.critic_rate, or a smaller --config.loss_weights.adversarial"
)
MASTER = (
    "it tells the autoencoder nothing more; in a new --workdir: a smaller --config.task.critic_rate, a larger "
    "--config.task.lecam, or --config.task.r1=10"
)
IDLE_CODES = (  # both flags at once: of its own, cvq has no revive_after, and residual has it inside
    "try --config.autoencoder.quantizer.name=ema, and revival after fewer steps with it, "
    "--config.autoencoder.quantizer.revive_after=20; docs/codebooks.md compares them"
)
HELD = "all codes are alike likely at each place: try a smaller --config.loss_weights.kl, or one that rises later"
SURE = (
    "each place is sure of one of few codes: try a larger --config.loss_weights.kl, or a temperature that falls later, "
    "a larger --config.autoencoder.quantizer.ramp_steps"
)
CLOSED = "they are held at the prior and tell the decoder nothing: try a smaller --config.loss_weights.kl"
FLOWN = (
    "it flew off, or the encodings have shrunk away from it: lower the learning rate, or a larger "
    "--config.loss_weights.reconstruction"
)
RUN = (
    "the encoder runs ahead of its codes: try a smaller --config.loss_weights.reconstruction, codes that follow at "
    "once, --config.autoencoder.quantizer.name=ema, or directions alone, --config.autoencoder.quantizer.name=cvq "
    "--config.autoencoder.quantizer.distance=sphere; docs/codebooks.md shows what it costs"
)
ONE = (
    "the encoder gives every place the same vector: try a lower learning rate, or a smaller "
    "--config.loss_weights.commitment for this level, so that its encodings can grow"
)
SIGNS = (
    "the encoder gives every place the same signs: try a lower learning rate, a larger "
    "--config.autoencoder.quantizer.temperature, so that the entropy moves channels as long as a code, or a larger "
    "--config.loss_weights.entropy"
)
BARE = (
    "the encoder gives every place the same vector: try a lower learning rate, or codes that follow it, "
    "--config.autoencoder.quantizer.name=ema"
)
