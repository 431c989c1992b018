"""Use what was trained: python -m vqvae_jax COMMAND --workdir=DIR …"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vqvae_jax.devices import check_platform, use_compilation_cache, use_large_pages

if __name__ == "__main__":
    use_large_pages()  # before the imports below, which bring JAX

from vqvae_jax import __version__
from vqvae_jax.checkup import add_doctor, doctor
from vqvae_jax.compare.commands import add_compare
from vqvae_jax.endings import GOES_ON, ended, stopping
from vqvae_jax.flags import (
    DATASET,
    DRAWING,
    MEASURED,
    SAMPLER,
    Parser,
    add_autoencoder,
    add_autoencoder_step,
    add_editing,
    add_images,
    add_prior_step,
    add_samples,
    add_workdir,
    check_editing,
    check_texts,
    flags_in_place_of,
    images_of,
    number,
    positive,
    sampler_fields,
    seed,
)
from vqvae_jax.interop.commands import add_export, add_features, add_import
from vqvae_jax.progress import of_command
from vqvae_jax.types import UserError


def parser() -> Parser:
    """The commands and their flags."""
    commands = Parser(prog="python -m vqvae_jax", description=__doc__)
    commands.add_argument("--version", action="version", version=f"vqvae_jax {__version__}")
    under = commands.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    one = under.add_parser(
        "sample",
        help="new images",
        description="New images from a trained workdir.",
        epilog="A prior's own fields sample_…: --sample_steps=8 for all that have it, --bottom.sample_steps=8 for one. "
        "maskgit and diffusion have sample_steps and sample_order (halton or confidence; 1 or 2), maskgit also "
        "sample_schedule, sample_choice_temperature and sample_guidance, diffusion sample_eta, sample_spacing, "
        "sample_guided and sample_strength, var sample_growing_guidance.",
    )
    add_workdir(one, sample)
    one.add_argument("--count", type=positive, default=None, help="images (default: the config's sample.count)")
    one.add_argument("--seed", type=seed, default=0, help="the same seed and count give the same bytes (default 0)")
    one.add_argument(
        "--output",
        type=Path,
        help="x.png a grid, x.npz uint8 arrays, else a folder of single pictures (default: DIR/samples_SEED.png)",
    )
    one.add_argument(
        "--label",
        help="name of a label; what is no name is its number, counted from 0 as in DIR/data.json (default: as often as "
        "in the training data; with --prefix and --images none)",
    )
    one.add_argument(
        "--text",
        help="what is to be seen, of priors with text_condition, or a file x.txt with a text a line: --count pictures "
        "of each, a row a line (default 1; without --text none is told)",
    )
    one.add_argument(
        "--best_of", type=positive, default=1, help="so many are drawn of each, that which fits --text best is kept"
    )
    one.add_argument(
        "--temperature",
        type=number,
        help="of codes, 0 takes the likeliest; of diffusion, its noise is multiplied by it (default: the config's)",
    )
    one.add_argument("--top_k", type=int, help="likeliest codes that stay, 0 all (default: the config's)")
    one.add_argument("--top_p", type=number, help="share of the codes' probability that stays (default: the config's)")
    one.add_argument("--guidance", type=number, help="weight of label and text, 1 plain (default: the config's)")
    add_prior_step(one)
    add_autoencoder(one)
    add_autoencoder_step(one)
    add_editing(one)

    one = under.add_parser(
        "encode",
        help="images to tokens",
        description="Images to a folder of token maps, with names, labels and the autoencoder's checksum. The folder "
        "is a data set: launch.py --config=… --config.dataset.name=tokens --config.dataset.path=DIR trains priors.",
    )
    add_workdir(one, encode)
    source = one.add_mutually_exclusive_group()
    source.add_argument("--images", help="a folder of images, or one file")
    source.add_argument("--dataset", help="another data set: a name of TFDS, openmoji, npz … (default: the config's)")
    one.add_argument("--path", help="where that data set lies, if it must be told")
    one.add_argument("--split", help="only this split (default: the config's split and test_split)")
    one.add_argument("--image_size", type=positive, help="pixels, height and width (default: as in training)")
    one.add_argument("--output", type=Path, required=True, help="a new folder, or one that an interrupted call left")
    add_autoencoder_step(one, "--step")

    one = under.add_parser(
        "decode",
        help="tokens to pictures",
        description="A folder of tokens, from encode or sample, back to pictures.",
    )
    add_workdir(one, decode)
    one.add_argument("--tokens", type=Path, required=True, help="the folder of tokens")
    one.add_argument("--levels", type=positive, help="how many levels are used, coarse to fine (default: all)")
    one.add_argument("--output", type=Path, required=True, help="a new folder of .png, or x.npz for uint8 arrays")
    add_autoencoder_step(one, "--step")

    one = under.add_parser(
        "reconstruct",
        help="own pictures, as the codes keep them",
        description="Writes reconstructions/NAME.png, and strips/NAME.png, a row: "
        "original | top only | … | all. Pictures keep their size.",
    )
    add_workdir(one, reconstruct)
    one.add_argument("--images", type=Path, required=True, help="a folder of pictures, or one file")
    one.add_argument("--image_size", type=positive, help="crop to squares of so many pixels, as in training")
    one.add_argument("--output", type=Path, required=True, help="a new folder")
    add_autoencoder_step(one, "--step")

    add_doctor(under)
    one = under.add_parser("report", help="one page of a run", description="Writes DIR/report.html anew.")
    add_workdir(one, report)
    one.add_argument(
        "--seeds",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="runs of the same config under other seeds, as runs/demo_*: error bars, mean and deviation of each metric",
    )

    one = under.add_parser(
        "evaluate",
        help="metrics on the test split",
        description="Metrics on the test split: printed, and written to DIR/metrics.json with DIR/reconstructions.png; "
        "of other steps to files with these in their names.",
    )
    add_workdir(one, evaluate)
    add_images(one)
    add_autoencoder_step(one, "--step")
    add_prior_step(one, "--prior_step")
    add_samples(one)
    add_import(under)
    add_export(under)
    add_features(under)
    add_compare(under)
    return commands


def sample(given: argparse.Namespace) -> None:
    """Draw images and write them; tokens, where there is no autoencoder."""
    from vqvae_jax import encode as coding
    from vqvae_jax import sample as drawing
    from vqvae_jax.prompts import lines_of
    from vqvae_jax.trained import BOTH, Trained

    check_editing(given)
    model = Trained(given.workdir, given.step, given.autoencoder_step, BOTH, given.autoencoder)
    pick = {name: getattr(given, name) for name in ("temperature", "top_k", "top_p", "guidance")}
    texts = lines_of(given.text)
    check_texts(given, texts is not None)
    each = given.count or (1 if texts else model.config["sample"]["count"])  # of each line of a file
    said = given.text if texts is None else [text for text in texts for _ in range(each)]
    asked = (each * len(texts or [said]), given.seed, given.label, said, given.best_of)
    drawing.pick_of(model.config["sample"], **pick)  # wrong ones are told before anything is computed
    pick |= given.own
    if given.prefix or given.images:
        output = of_pictures(given, model, pick)
    elif given.to_seed is not None:
        output = given.output or given.workdir / f"samples_{given.seed}_to_{given.to_seed}.png"
        drawing.check_output(output)
        images = model.interpolate(given.seed, given.to_seed, given.count or 8, given.label, given.text, **pick)
        drawing.save(images, output, columns=len(images))
    elif model.makes_pictures:
        output = given.output or given.workdir / f"samples_{given.seed}.png"
        drawing.check_output(output)
        drawing.save(model.sample(*asked, **pick), output, columns=each if texts and each > 1 else 0)
    else:
        output = given.output or given.workdir / f"samples_{given.seed}"
        coding.check_new(output)
        coding.write_samples(model, model.sample_tokens(*asked, **pick), output)
    print(output)


def of_pictures(given: argparse.Namespace, model: Any, pick: dict[str, Any]) -> Path:
    """Own pictures in part drawn anew; where they are written."""
    from vqvae_jax import edit
    from vqvae_jax.data import folder
    from vqvae_jax.sample import check_output

    drawn = {"completed": given.prefix, "variations": given.variations, "redrawn": given.strength is not None}
    kind = next((name for name, asked in drawn.items() if asked), "edited")
    output = given.output or given.workdir / f"{kind}_{given.seed}.png"
    check_output(output)
    asked = {"seed": given.seed, "label": given.label, "text": given.text, **pick}
    with flags_in_place_of({folder.TYPE: "--prefix=FOLDER" if given.prefix else "--images=FOLDER"}):
        if given.prefix:
            edit.complete(model, given.prefix, output, given.count or 4, **asked)
        elif given.variations:
            edit.variations(model, given.images, output, given.variations, **asked)
        elif given.strength is not None:
            edit.redraw(model, given.images, output, given.strength, given.count or 4, **asked)
        else:
            asked |= {"shift": given.shift or (0, 0), "grow": given.grow or 0, "seam": given.seam or 0}
            edit.edit(model, given.images, given.mask, output, given.count or 4, **asked)
    return output


def encode(given: argparse.Namespace) -> None:
    """Images to tokens."""
    from vqvae_jax import encode as coding
    from vqvae_jax.data import folder

    if given.images is not None and (given.path or not given.images):
        raise UserError("--images=FOLDER says where the images lie, so that --path is for --dataset alone")
    asked = {"name": given.dataset, "path": given.path, "split": given.split, "image_size": given.image_size}
    if given.dataset and not given.path:
        asked["path"] = ""
    if given.images:
        first, *second = folder.splits_in(given.images)
        asked |= {"name": "folder", "path": given.images, "split": given.split or first, "test_split": "".join(second)}
    if given.split:
        asked["test_split"] = ""
    asked = {name: value for name, value in asked.items() if value is not None}
    flags = {folder.TYPE: "--images=FOLDER"} if given.images else {}
    with flags_in_place_of({**flags, **DATASET}):
        counts = coding.encode(given.workdir, given.output, asked, given.step)
    print(f"{given.output}: {', '.join(f'{count} of {split}' for split, count in counts.items())}")


def decode(given: argparse.Namespace) -> None:
    """Tokens to pictures."""
    from vqvae_jax import encode as coding

    count = coding.decode(given.workdir, given.tokens, given.output, given.levels or 0, given.step)
    print(f"{given.output}: {count} pictures")


def reconstruct(given: argparse.Namespace) -> None:
    """Own pictures there and back."""
    from vqvae_jax import reconstruct as showing
    from vqvae_jax.data import folder

    with flags_in_place_of({folder.TYPE: "--images=FOLDER"}):
        quality = showing.reconstruct(given.workdir, given.images, given.output, given.image_size, given.step)
    print("\n".join(f"{name:45} {value:.2f} dB" for name, value in quality.items()))
    print(f"{'mean':45} {sum(quality.values()) / len(quality):.2f} dB; look at {given.output / showing.STRIPS}")


def report(given: argparse.Namespace) -> None:
    """The page of a run."""
    from vqvae_jax import report as reporting

    print(reporting.write(given.workdir, given.seeds))


def evaluate(given: argparse.Namespace) -> None:
    """Measure, print, write metrics.json."""
    from vqvae_jax import evaluate as measuring

    with flags_in_place_of(MEASURED):
        metrics = measuring.evaluate(given.workdir, images_of(given), given.step, given.prior_step, given.samples)
    print("\n".join(measuring.lines(metrics)))


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The flags; those of `sample` that only a prior knows are its `own`, see `flags.sampler_fields`."""
    commands = parser()
    given, more = commands.parse_known_args(argv)
    if more and (given.command is not sample or not all(map(SAMPLER.fullmatch, more))):
        commands.error(f"unrecognized arguments: {' '.join(more)}")
    given.own = sampler_fields(more)
    return given


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where a comparison fails, 2 where the user has something to put right."""
    return ended(lambda: run(argv))


def run(argv: list[str] | None) -> int | None:
    """Without a care for how it ends."""
    given = parsed(argv)
    use_compilation_cache()
    if given.command not in (report, doctor):  # which compute nothing
        check_platform()
    asked_of = flags_in_place_of(DRAWING) if given.command is sample else nullcontext()
    with of_command(getattr(given, "quiet", False)), asked_of, stopping(lambda: left_by(given)):
        return given.command(given)


def left_by(given: argparse.Namespace) -> str:
    """What stays of a command that was stopped, and what to type then; `encode` alone goes on."""
    output = getattr(given, "output", None)
    if given.command is encode:
        return GOES_ON
    if output and output.is_dir() and any(output.iterdir()):
        return f"stopped; {output} stays as it is and is not gone on with: choose a new --output"
    return "stopped; the same command begins again"


if __name__ == "__main__":
    sys.exit(main())
