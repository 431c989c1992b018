"""Every picture in README, and the measured numbers of its table, from finished runs:

python scripts/readme.py page --workdir=runs/demo --output=docs/pictures/demo.png
python scripts/readme.py labels --workdir=runs/demo --output=docs/pictures/labels.png
python scripts/readme.py page --workdir=runs/fashion_mnist --output=docs/pictures/fashion_mnist.png
python scripts/readme.py continued --workdir=runs/transformer --output=docs/pictures/continued.png
python scripts/readme.py holes --workdir=runs/openmoji_maskgit --output=docs/pictures/holes.png
python scripts/readme.py figures --workdir=runs/demo
python scripts/readme.py figures --workdir=runs/demo --row=openmoji_hierarchical.py --write

`figures` reads metrics.json and config.json alone. A run does not know the name of its config: --row says it, as it
stands in the table's first column. Only the numbers at the beginning of the cell are replaced, words behind them stay.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import evaluate, logs
from vqvae_jax.config.workdir import CADENCES, flat
from vqvae_jax.edit import greyed, rows_of, upper_halves
from vqvae_jax.endings import ended
from vqvae_jax.files import atomically, read_json
from vqvae_jax.flags import Parser, add_workdir
from vqvae_jax.types import UserError, unknown

COLUMNS = 16
# As a user would type them. Of the first row no name was told, of the second each was; the rest is in other words.
TEXTS = (
    *("blue heart", "green circle", "purple square", "woman cook"),
    *("red heart", "grinning face", "flag: Italy", "three o’clock"),
    *("a woman with red hair", "a yellow flower", "black cat", "sun behind a cloud"),
)
TOLD = 4  # new images of a text
ROWS = 3  # of new images
CONTINUED, HALVES = 8, 5  # test images, drawings of each
MEASURED = "measured on data not trained on"  # the column's head
OF = " of the codes' per-position cross-entropy"
SHARE = r"\d+(?:–\d+)? %"
NUMBERS = re.compile(
    r"PSNR [\d.]+ dB(?:, SSIM [\d.]+)?"
    rf"(?:, usage {SHARE}(?: / {SHARE})*(?: \(\w+(?: / \w+)+\))?)?"
    rf"(?:; nll [\d.]+(?: / [\d.]+)*(?:{OF})?)?"
    r"(?:; [\d.]+ bits a pixel)?"
)
WORDS_BEHIND = re.compile(r"(?:; | \(|$)(?!.*\b(?:PSNR|SSIM|usage|nll|bits a pixel)\b)")
# What may be otherwise in a run of a row's config: where its data lie, and what moves no weight.
FREE = {f"train.{name}" for name in CADENCES - {"steps", "epochs"}} | {"dataset.path"}


def main() -> int:
    """0, or 2 where the user has something to put right."""
    given = parser().parse_args()
    return ended(lambda: given.command(given))


def parser() -> Parser:
    """A command for each kind of picture, and one for the numbers."""
    commands = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    under = commands.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for make in (page, labels, texts, continued, holes):
        one = under.add_parser(make.__name__, help=make.__doc__)
        add_workdir(one, picture)
        one.add_argument("--output", type=Path, required=True, help="FILE.png")
        one.set_defaults(make=make)
    one = under.add_parser("figures", help="the run's cell of the table, to look at or to put in")
    add_workdir(one, figures)
    one.add_argument("--row", metavar="NAME", help="first cell of the run's row: openmoji_hierarchical.py:fsq")
    one.add_argument("--write", action="store_true", help="put the numbers there")
    one.add_argument(
        "--page", type=Path, default=configs.ROOT / "README.md", help="where the table stands; default: README.md"
    )
    return commands


def picture(given: argparse.Namespace) -> None:
    """Writes one picture."""
    logs.save_png(given.output, given.make(vqvae_jax.load(given.workdir)))


def page(model: vqvae_jax.trained.Trained) -> np.ndarray:
    """reconstructions.png, and below it new images, as they come: seed 0, none left out."""
    above = np.asarray(Image.open(model.workdir / "reconstructions.png"))
    images = model.sample(COLUMNS * ROWS)
    below = logs.grid(images, columns=COLUMNS, scale=max(1, 64 // images.shape[1]))
    space = np.full((8, above.shape[1], 3), 255, np.uint8)
    return np.concatenate([above, space, below])


def labels(model: vqvae_jax.trained.Trained) -> np.ndarray:
    """A row of new images for each label, in the data's order: seed 0, none left out."""
    rows = [model.sample(COLUMNS, label=name) for name in model.facts["label_names"]]
    return logs.grid(np.concatenate(rows), COLUMNS, scale=max(1, 64 // rows[0].shape[1]))


def texts(model: vqvae_jax.trained.Trained) -> np.ndarray:
    """TOLD new images for each of TEXTS, four texts a row: seed 0, none left out."""
    found = [model.sample(TOLD, text=text) for text in TEXTS]
    return logs.grid(np.concatenate(found), COLUMNS, scale=max(1, 64 // found[0].shape[1]))


def continued(model: vqvae_jax.trained.Trained) -> np.ndarray:
    """Test images, evenly over the split: image, the half that is given, lower halves drawn from seed 0."""
    images = evaluate.load_images(model, model.config["dataset"]).image
    images = evaluate.spaced(images, CONTINUED)
    return rows_of([images, upper_halves(images)], model.complete(images, HALVES))


def holes(model: vqvae_jax.trained.Trained) -> np.ndarray:
    """Test images, evenly over the split: image, a hole in its middle, and that drawn anew from seed 0."""
    images = evaluate.spaced(evaluate.load_images(model, model.config["dataset"]).image, CONTINUED)
    side = images.shape[1]
    mask = np.zeros((side, side), bool)
    mask[side // 3 : side - side // 3, side // 3 : side - side // 3] = True
    return rows_of([images, greyed(images, mask)], model.edit(images, mask, HALVES))


def figures(given: argparse.Namespace) -> None:
    """Prints the cell's numbers; with --row also what README has, with --write puts them there."""
    if given.write and not given.row:
        raise UserError("--write wants the row as well, for example --row=openmoji_hierarchical.py")
    config = configs.load(given.workdir)
    text = measured(metrics_of(given.workdir), configs.levels(config))
    print(text)
    if not given.row:
        return
    old, new, after = replaced(given.page.read_text("utf-8"), given.row, text)
    check_row(given.row, config, given.workdir)
    print(f"{given.row}: as it stands there" if old == new else f"was: {old}\nnow: {new}")
    if given.write and old != new:
        with atomically(given.page) as temporary:
            temporary.write_text(after, "utf-8")


def metrics_of(workdir: Path) -> dict[str, Any]:
    """metrics.json."""
    path = workdir / evaluate.FILE
    if not path.is_file():
        raise UserError(f"{path} is not there; make it: python -m vqvae_jax evaluate --workdir={workdir}")
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); python -m vqvae_jax evaluate --workdir={workdir}") from error


def measured(metrics: Mapping[str, Any], levels: Sequence[str]) -> str:
    """The numbers as the table words them; what the run has not, or what is no number, is left out.

    Args:
        metrics: as metrics.json holds them.
        levels: coarse to fine.
    """
    autoencoder = metrics.get("autoencoder", {})
    if autoencoder.get("psnr") is None:
        raise UserError("metrics.json has no PSNR: the row's numbers begin with it; give a run with an autoencoder")
    text = f"PSNR {autoencoder['psnr']:.1f} dB"
    if autoencoder.get("ssim") is not None:
        text += f", SSIM {autoencoder['ssim']:.2f}"
    text += usage(autoencoder, levels) + nll(metrics.get("priors", {}), levels)
    bits = metrics.get("bits_per_pixel")
    return text if bits is None else f"{text}; {bits:.2f} bits a pixel"


def usage(autoencoder: Mapping[str, Any], levels: Sequence[str]) -> str:
    """Of each level that holds codes; of several depths, "top.0" and on, the lowest and the highest."""
    by_level: dict[str, list[str]] = {}
    for level in levels:
        shares = [v for k, v in autoencoder.items() if re.fullmatch(rf"usage/{level}(\.\d+)?", k)]
        if shares:
            by_level[level] = sorted({f"{100 * share:.0f}" for share in shares}, key=int)
    if not by_level:
        return ""
    said = " / ".join(f"{'–'.join([*found[:1], *found[1:][-1:]])} %" for found in by_level.values())
    return f", usage {said}" + (f" ({' / '.join(by_level)})" if len(by_level) > 1 else "")


def nll(priors: Mapping[str, Any], levels: Sequence[str]) -> str:
    """Of each level, as a share of the per-position cross-entropy; nothing unless every level has it."""
    ratios = [priors.get(level, {}).get("nll_over_position_entropy") for level in levels]
    return "" if None in ratios else f"; nll {' / '.join(f'{ratio:.2f}' for ratio in ratios)}{OF}"


def replaced(text: str, row: str, numbers: str) -> tuple[str, str, str]:
    """The row's cell before and after, and the page after.

    Raises:
        UserError: there is no such row, or its cell is not numbers with words behind.
    """
    lines = text.split("\n")
    number, column = place(lines, row)
    cells = lines[number].split("|")
    old = cells[column].strip()
    found = NUMBERS.match(old)
    if not (found and WORDS_BEHIND.match(old, found.end())):
        raise UserError(
            f"the cell of {row} has words before or between its numbers, it begins with {old[:40]!r}: put the text "
            f'above in by hand; where a cell begins with "PSNR N dB, SSIM N" and words follow a ";", --write does it'
        )
    new = numbers + old[found.end() :]
    cells[column] = f" {new} "
    lines[number] = "|".join(cells)
    return old, new, "\n".join(lines)


def place(lines: Sequence[str], row: str) -> tuple[int, int]:
    """Line and cell: the row's, under the head that says what was measured."""
    head = next((i for i, line in enumerate(lines) if line.startswith("|") and MEASURED in line), None)
    if head is None:
        raise UserError(f"the page has no table with a column {MEASURED!r}; name another: --page=FILE")
    table = itertools.takewhile(lambda i: lines[i].startswith("|"), range(head, len(lines)))
    rows = {lines[i].split("`")[1]: i for i in table if lines[i].startswith("| `")}
    if row not in rows:
        raise UserError(unknown("--row: the table has no row", row, rows))
    return rows[row], [cell.strip() for cell in lines[head].split("|")].index(MEASURED)


def check_row(row: str, config: Mapping[str, Any], workdir: Path) -> None:
    """UserError where the run is of another config than the row's."""
    own, asked = flat(config), flat(configs.read(f"configs/{row}"))
    other = [path for path in {*own, *asked} if own.get(path) != asked.get(path) and not is_free(path)]
    if other:
        first = min(other, key=lambda path: (path not in own or path not in asked, path))
        said = f"{first} is {own.get(first)!r}, there {asked.get(first)!r}"
        more = f" (and {len(other) - 1} fields more)" if other[1:] else ""
        raise UserError(f"{workdir} is no run of configs/{row}: {said}{more}; name the row that it is of")


def is_free(path: str) -> bool:
    """Whether runs that differ in it are of one config."""
    return path.startswith("config.sample.") or ".".join(path.split(".")[-2:]) in FREE


if __name__ == "__main__":
    sys.exit(main())
