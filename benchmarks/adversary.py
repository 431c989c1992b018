"""An autoencoder with and without its critic: the same steps, several seeds, what changes and by how much.

    VQVAE_JAX_FEATURES=features.npz python benchmarks/adversary.py --config=configs/fashion_mnist_vqgan.py \\
        --output=runs/adversary --seeds=3

Each run lies in OUTPUT/NAME_SEED and goes on where it was interrupted. The last lines are the table of docs/sharper.md:
mean over seeds ± standard deviation, and OUTPUT/strip.png, original | without | with, of the first seed.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import launch
from vqvae_jax import evaluate, logs
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.trained import Trained

KINDS = {"without": ":plain", "with": ""}  # variants of the config
ROWS = ("psnr", "ssim", "sharpness", "fd_mobilenet_v2", "kd_mobilenet_v2", "precision", "recall")
SHOWN = 10  # images of the strip


def main() -> None:
    """Trains what is missing, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="with a variant `plain`, which has no critic")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--only", choices=KINDS, help="one kind alone, for two processes side by side")
    asked = parser.parse_args()
    use_compilation_cache()
    kinds = [asked.only] if asked.only else list(KINDS)
    found = {kind: [run(asked, kind, seed) for seed in range(asked.seeds)] for kind in kinds}
    print("\n".join(table(found)))
    if not asked.only:
        strip([asked.output / f"{kind}_0" for kind in KINDS], asked.output / "strip.png")


def run(asked: argparse.Namespace, kind: str, seed: int) -> dict[str, float]:
    """One training of the autoencoder to its end, and what it is worth."""
    workdir = asked.output / f"{kind}_{seed}"
    argv = [f"--config={asked.config}{KINDS[kind]}", f"--workdir={workdir}", f"--stage={AUTOENCODER}"]
    if code := launch.main([*argv, f"--config.seed={seed}"]):
        raise SystemExit(code)
    if not (workdir / evaluate.FILE).is_file():
        evaluate.evaluate(workdir)
    metrics = json.loads((workdir / evaluate.FILE).read_text())
    return {**metrics["autoencoder"], **metrics.get("distances", {}).get("reconstructions", {})}


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Markdown: a line a metric, a column a kind."""
    lines = [f"| | {' | '.join(found)} |", f"|---{'|---' * len(found)}|"]
    for name in ROWS:
        if all(name in one for runs in found.values() for one in runs):
            cells = [[one[name] for one in runs] for runs in found.values()]
            spread = [np.std(x, ddof=min(1, len(x) - 1)) for x in cells]
            said = [f"{np.mean(x):.4g} ± {deviation:.2g}" for x, deviation in zip(cells, spread, strict=True)]
            lines.append(f"| {name} | {' | '.join(said)} |")
    return lines


def strip(workdirs: list[Path], output: Path) -> None:
    """Originals, and below them what each run makes of them."""
    models = [Trained(workdir) for workdir in workdirs]
    shown = evaluate.spaced(evaluate.load_images(models[0], models[0].config["dataset"]).image, SHOWN)
    rows = [shown, *(model.reconstruct(shown)[-1] for model in models)]
    logs.save_png(output, logs.strip(rows, scale=max(1, 128 // shown.shape[1])))


if __name__ == "__main__":
    main()
