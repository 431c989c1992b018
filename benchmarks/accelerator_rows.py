"""What accelerator.py measures, the most valuable first, at full size and as a rehearsal of seconds on any machine.

A row belongs to a shift. Jobs of a shift run side by side, the rows of a job one after the other; rows of one group
compile side by side and are then measured one by one. Adding a row is adding a line here; what a row does is one
function of accelerator_worker.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sizes import DIT, GENERATOR, MASKGIT, MNIST, PHOTOGRAPHS, TOP, TRANSFORMER, VQGAN

TINY = {"size": 32, "channels": 3, "levels": 2, "width": 16, "codes": 32}
SMALL_TRANSFORMER = {"name": "transformer", "vocab_size": 32, "shape": (4, 4), "width": 32, "layers": 2, "heads": 2}
SMALL_MASKGIT = {**SMALL_TRANSFORMER, "name": "maskgit"}
SMALL_DIT = {"channels": 2, "shape": (4, 4), "network": {"name": "dit", "width": 16, "layers": 1, "heads": 2}}
SMALL_VQGAN = {"config": "configs/openmoji_vqgan.py:tiny", "size": 32}
BF16, F32 = "bfloat16", "float32"
LATER = "to train mnist_cvqvae.py for the minutes left is not built yet"

READ = (  # recordings that are compared today; others in the folder are named
    "top_prior",
    "bottom_prior",
    "hierarchical_vae",
    "rosinality_vqvae2",
    "vqgan",
    "mnist_generator",
    "mnist_vae",
    "pixel_cnn_spatial_condition",
    "pixel_cnn_vector_condition",
    "pixel_conv_a",
)


class Row(NamedTuple):
    """One line of the results."""

    name: str
    function: str  # of accelerator_worker.py
    fields: Mapping[str, Any]
    seconds: float  # that it takes on an H100, compilation included: where less is left it is not begun
    group: str = ""


Job = list[Row]


def shifts(rehearse: bool, recordings: Mapping[str, Path], pytorch: bool) -> list[list[Job]]:
    """Everything, in order: first what tells whether the device computes right, and the demo; then how fast it is."""
    steps, draws, looks = training(rehearse), sampling(rehearse), profiles(rehearse)
    twins = [*beside_torch(steps), *sampling_beside_torch(draws)] if pytorch else []
    speed = with_torch(bfloat16_first([*steps, *looks[0], *draws, *looks[1]]), twins) + codebooks(rehearse) + wishes()
    first = [[demo(rehearse)], *parity(recordings), *resuming(rehearse), attentions(rehearse)]
    if rehearse:  # a small machine: one thing after the other
        return [[job] for job in first] + [[speed]]
    return [first, [speed]]


def parity(recordings: Mapping[str, Path]) -> list[Job]:
    """The recordings among three jobs, the largest to each first."""
    names = [*(name for name in READ if name in recordings), *sorted(set(recordings) - set(READ))]
    rows = [Row(f"recording {n}", "recording", {"path": str(recordings[n]), "known": n in READ}, 30) for n in names]
    return [job for job in (rows[0::3], rows[1::3], rows[2::3]) if job]


def resuming(rehearse: bool) -> list[Job]:
    """A run that was stopped and went on beside one that was not, with and without XLA's flag, which is a GPU's."""
    fields = {"steps": 4 if rehearse else 40}
    plain = Row("resumed run", "resumed", {**fields, "deterministic": False}, 60)
    flagged = Row("resumed run, deterministic ops", "resumed", {**fields, "deterministic": True}, 60)
    return [[plain]] if rehearse else [[plain], [flagged]]


def demo(rehearse: bool) -> Row:
    return Row("demo", "demo", {"variant": "tiny" if rehearse else ""}, 120)


def attentions(rehearse: bool) -> Job:
    """The attention that is chosen here beside XLA's, [maps, positions, heads, channels of a head]."""
    shapes = [(2, 16, 2, 8)] if rehearse else [(64, 256, 8, 64), (32, 1024, 2, 64), (32, 49, 8, 16), (8, 5, 1, 8)]
    return [Row(f"attention {n}x{t}x{h}x{d}", "attention", {"shape": (n, t, h, d)}, 15) for n, t, h, d in shapes]


def training(rehearse: bool) -> list[Row]:
    """Steps: bfloat16 of all, float32 of two."""

    def row(name, function, arguments, fields, tiny, seconds, group, **more):
        arguments, fields = tiny if rehearse else (arguments, fields)
        work = {"function": function, "arguments": [*arguments, more.pop("dtype", BF16)], "fields": fields}
        return Row(name, "work", {**work, "items": arguments[0], **more}, seconds, group)

    vae, prior = "autoencoder_step", "prior_step"
    small, few, words = ([2], TINY), ([2], GENERATOR), ([2], SMALL_TRANSFORMER)
    large = {"size": 256, **PHOTOGRAPHS}
    parted, wordy = ([2], {**TINY, "parts": 2}), ([2], {**SMALL_TRANSFORMER, "parts": 2})
    return [
        row("hierarchical VAE 256 px, 64", vae, [64], large, small, 40, "steps 1", cached=True),
        row("transformer, 64", prior, [64], TRANSFORMER, words, 40, "steps 1", cached=True),
        row("MNIST PixelCNN, 128", prior, [128], GENERATOR, few, 40, "steps 1"),
        row("TopPrior, 32", prior, [32], TOP, few, 90, "steps 2"),
        row("hierarchical VAE 64 px, 64", vae, [64], {"size": 64, **PHOTOGRAPHS}, small, 60, "steps 2"),
        row("MNIST VQ-VAE, 128", vae, [128], MNIST, ([4], MNIST), 60, "steps 2"),
        row("MaskGIT, 64", prior, [64], MASKGIT, ([2], SMALL_MASKGIT), 40, "steps 5"),
        row("DiT, 64", prior, [64], DIT, ([2], SMALL_DIT), 40, "steps 5"),
        row("VQ-GAN 256 px with its critic, 16", "recipe_step", [16], VQGAN, ([2], SMALL_VQGAN), 60, "steps 5"),
        row("hierarchical VAE 256 px, 64, in parts", vae, [64], {**large, "parts": 8}, parted, 40, "steps 4"),
        row("transformer, 64, in parts", prior, [64], {**TRANSFORMER, "parts": 8}, wordy, 40, "steps 4"),
        row("hierarchical VAE 256 px, 64, float32", vae, [64], large, small, 40, "steps 3", dtype=F32),
        row("transformer, 64, float32", prior, [64], TRANSFORMER, words, 40, "steps 3", dtype=F32),
        Row(
            "hierarchical VAE 256 px, largest batch",
            "largest",
            {"of": "hierarchical VAE 256 px, 64", "fields": TINY if rehearse else large, "most": 4 if rehearse else 0},
            40,
            "largest",
        ),
    ]


def beside_torch(rows: Sequence[Row]) -> list[Row]:
    """The same steps in turns with torch.compile, which prepares itself while a group of ours compiles."""
    groups = {
        "transformer, 64": "steps 1",
        "hierarchical VAE 256 px, 64": "steps 2",
        "MNIST PixelCNN, 128": "sample MNIST PixelCNN",
        "hierarchical VAE 256 px, 64, float32": "steps 3",
    }
    of = {row.name: row for row in rows}
    return [Row(f"{name} | PyTorch", "beside", of[name].fields, 30, group) for name, group in groups.items()]


def with_torch(rows: Sequence[Row], twins: Sequence[Row]) -> list[Row]:
    """Each twin at the end of its group."""
    found: list[Row] = []
    for group in groups(rows):
        found += [*group, *(twin for twin in twins if twin.group == group[0].group)]
    return found


def sampling(rehearse: bool) -> list[Row]:
    """New maps and pictures."""

    def row(name, counts, fields, seconds, of=BF16, function="sampling"):
        for count in counts:
            work = {"function": function, "arguments": [count, of], "fields": fields, "items": count, "draws": True}
            yield Row(f"sample {name}, {count}", "work", work, seconds, f"sample {name}")

    if rehearse:
        small = {"transformer": SMALL_TRANSFORMER, "MaskGIT": SMALL_MASKGIT, "DiT": SMALL_DIT}
        priors = [one for name, fields in small.items() for one in row(name, [2], fields, 20)]
        return [*row("MNIST PixelCNN", [2], GENERATOR, 20), *priors]
    return [
        *row("MNIST PixelCNN", [1, 64, 1024], GENERATOR, 50),
        *row("TopPrior", [1, 64], TOP, 90),
        *row("transformer", [64], TRANSFORMER, 60),
        *row("MaskGIT", [64], MASKGIT, 30),
        *row("DiT", [64], DIT, 30),
        *row("256 px by both priors and decoder", [1], {}, 90, function="hierarchy"),
    ]


def sampling_beside_torch(rows: Sequence[Row]) -> list[Row]:
    """The reference's full forward passes, of large maps a few places for all."""
    of = [row for row in rows if "MNIST" in row.name or "TopPrior" in row.name]
    return [Row(f"{row.name} | PyTorch", "beside", row.fields, 8, row.group) for row in of]


def profiles(rehearse: bool) -> tuple[list[Row], list[Row]]:
    """The rows furthest from the limit: of training, then of what is left."""
    rows = [Row(f"profile {i + 1}", "profile", {}, 6) for i in range(3 if rehearse else 12)]
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def bfloat16_first(rows: Sequence[Row]) -> list[Row]:
    """float32 and the largest batch come last."""
    return sorted(rows, key=lambda row: row.group in ("steps 3", "largest"))


def codebooks(rehearse: bool) -> list[Row]:
    """Nearest codes; sums of vectors by code, in both forms."""
    shapes = [(64, 8, 512), (64, 8, 64)] if rehearse else [(65536, 8, 262144), (16384, 64, 512)]
    rows = []
    for vectors, dim, codes in shapes:
        work = {"function": "nearest_code", "arguments": [vectors, dim, codes], "fields": {}, "items": vectors}
        rows.append(Row(f"nearest code, {vectors} x {dim}, {codes:,} codes", "work", work, 20, "codebooks"))
    for vectors, dim, codes in (shapes[1], (64, 16, 64) if rehearse else (262144, 128, 512)):
        for form in ("scatter", "product"):
            name = f"EMA sums by {form}, {vectors} x {dim}, {codes} codes"
            rows.append(Row(name, "sums", {"form": form, "shape": (vectors, dim, codes)}, 5))
    return rows


def wishes() -> list[Row]:
    return [Row("MNIST CVQ-VAE, 500 epochs", "later", {"why": LATER}, 0, "later")]


def of_limit(found: Mapping[str, float], draws: bool) -> float:
    """The share of its limit that a work reached; what is drawn is not held against the bandwidth."""
    return max(found["of_rate"], 0.0 if draws else found["of_bandwidth"])


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Neighbours of the same group; a row without one is alone."""
    found: list[list[Row]] = []
    for row in rows:
        if found and row.group and found[-1][0].group == row.group:
            found[-1].append(row)
        else:
            found.append([row])
    return found
