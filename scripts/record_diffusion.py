"""Records what DiT, or latent diffusion's U-Net, computes: small ones of their authors' own classes.

    git clone https://github.com/facebookresearch/DiT PATH
    python scripts/record_diffusion.py dit --checkout=PATH --output=dit.npz
    python -m vqvae_jax import --checkpoint=dit.npz --key=learn_sigma_true/param --heads=4 --workdir=DIR
    python -m vqvae_jax compare --workdir=DIR --reference=dit.npz --key=learn_sigma_true

    git clone https://github.com/CompVis/stable-diffusion PATH
    python scripts/record_diffusion.py unet --checkout=PATH --output=unet.npz
    python -m vqvae_jax import --checkpoint=unet.npz --heads=4 --workdir=DIR
    python -m vqvae_jax compare --workdir=DIR --reference=unet.npz

Needs torch and numpy, DiT timm, the U-Net einops and pillow; on CPU, in float32. Written are `param/` (the state dict),
`input/`, `output/0`, `cotangent/0`, `grad/` and `grad_input/` of mean(output · cotangent) and `meta/`, the class's
arguments; of DiT below learn_sigma_false/ and learn_sigma_true/, each with `guided/`, of the U-Net `time_embedding/`
too. What their initialisation leaves at 0 or 1 is random, weights have the digits of bfloat16. --like takes weights and
inputs from such a file, so that another version of a library can be set beside the one that wrote it.
"""

from __future__ import annotations  # torch may be missing

import importlib
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from authors import begun, earlier, finish, parser_of, taken
from record_reference import arrays

try:
    import torch
except ModuleNotFoundError:  # --help works without
    torch = None

DIT = {
    "input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 64, "depth": 2, "num_heads": 4,
    "num_classes": 10,
}  # fmt: skip
UNET = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
    "attention_resolutions": [2, 1], "num_heads": 4, "context_dim": 24, "transformer_depth": 1,
}  # fmt: skip
SIDE, WORDS = 8, 5  # of the U-Net's maps and contexts
TIMES = {"dit": [0, 17, 500, 999], "unet": [1.0, 37.5, 981.0]}  # the U-Net's need not be whole
SCALE = 3.0  # of the guidance
LARGEST = 10_000  # numbers of a tensor of the U-Net whose gradient is written
ROUNDING = 1e-6  # of the largest gradient: biases in front of norms of one channel a group have less

Arrays = dict[str, Any]


def main() -> None:
    """Writes the file."""
    parser = parser_of(__doc__, "the authors' repository")
    parser.add_argument("network", choices=["dit", "unet"])
    parser.add_argument("--arguments", default="{}", help="""of the class in place of the usual, '{"depth": 3}'""")
    parser.add_argument("--like", type=Path, help="a recording whose weights, inputs and arguments are taken")
    given = begun(parser)
    like = earlier(given.like)
    usual = {"dit": DIT, "unet": UNET}[given.network]
    said = {name: like[f"meta/{name}"].tolist() for name in usual if f"meta/{name}" in like}
    arguments = usual | said | json.loads(given.arguments)
    found = {"dit": of_dit, "unet": of_unet}[given.network](arguments, like)
    found |= {f"meta/{name}": np.asarray(value, np.int32) for name, value in arguments.items()}
    finish(given.output, found)


def of_dit(arguments: Mapping[str, Any], like: Arrays) -> Arrays:
    """Without and with variances."""
    code, found = importlib.import_module("models"), {}
    for learn_sigma in (False, True):
        key = f"learn_sigma_{str(learn_sigma).lower()}/"
        own = {name.removeprefix(key): array for name, array in like.items() if name.startswith(key)}
        model = loaded(code.DiT(**arguments, learn_sigma=learn_sigma).eval(), own)
        recorded = dit(model, arguments, own)
        found |= {key + name: array for name, array in arrays(recorded)}
    return found


def dit(model: Any, arguments: Mapping[str, Any], like: Arrays) -> Arrays:
    """Maps with labels, the second of which is "none"; and the first half of others, guided."""
    side, classes, times = arguments["input_size"], arguments["num_classes"], TIMES["dit"]
    shape = (len(times), arguments["in_channels"], side, side)
    labels = torch.randint(classes, (len(times),))
    labels[1] = classes
    inputs = {"x": torch.randn(shape), "t": torch.tensor(times), "y": labels}
    found = differentiated(model, inputs, like)
    half = torch.randint(classes, (len(times) // 2,))
    guided = {"x": torch.randn(shape), "t": torch.full_like(labels, 100), "y": torch.cat([half, 0 * half + classes])}
    guided |= {"scale": torch.tensor(SCALE)}
    guided = {name: taken(like, f"guided/{name}", one) for name, one in guided.items()}
    with torch.no_grad():
        said = model.forward_with_cfg(guided["x"], guided["t"], guided["y"], float(guided["scale"]))
    return {**found, "guided": {**guided, "output": said}}


def of_unet(arguments: Mapping[str, Any], like: Arrays) -> Arrays:
    """Maps that hear a context, as in Stable Diffusion 1."""
    listed = types.ModuleType("omegaconf.listconfig")
    listed.ListConfig = tuple  # type: ignore[attr-defined]  # of their configs, which are not read
    sys.modules |= {"omegaconf": types.ModuleType("omegaconf"), "omegaconf.listconfig": listed}
    code = importlib.import_module("ldm.modules.diffusionmodules.openaimodel")
    model = code.UNetModel(SIDE, **arguments, use_spatial_transformer=True, legacy=False).eval()
    times = torch.tensor(TIMES["unet"])
    shape = (len(times), arguments["in_channels"], SIDE, SIDE)
    context = torch.randn(len(times), WORDS, arguments["context_dim"])
    found = differentiated(
        lambda x, t, context: model(x, timesteps=t, context=context),
        {"x": torch.randn(shape), "t": times, "context": context},
        like,
        loaded(model, like),
    )
    found["grad"] = {name: one for name, one in found["grad"].items() if one.numel() <= LARGEST}
    time = taken(like, "time_embedding/t", torch.tensor([0, 1, 37.5, 250, 981, 999]))
    waves = code.timestep_embedding(time, arguments["model_channels"])
    return dict(arrays({**found, "time_embedding": {"t": time, "output": waves}}))


def differentiated(forward: Any, inputs: Arrays, like: Arrays, model: Any = None) -> Arrays:
    """Output and all gradients of its mean, weighted; `forward` is the model, or takes its inputs in its place."""
    inputs = {name: taken(like, f"input/{name}", one) for name, one in inputs.items()}
    learned = {name for name in ("x", "context") if name in inputs}
    for name in learned:
        inputs[name].requires_grad_()
    output = forward(*inputs.values())
    cotangent = taken(like, "cotangent/0", torch.randn(output.shape))
    (output * cotangent).mean().backward()
    model = model or forward
    return {
        "param": model.state_dict(),
        "input": inputs,
        "cotangent": {"0": cotangent},
        "output": {"0": output},
        "grad": gradients(model),
        "grad_input": {name: one.grad for name, one in inputs.items() if name in learned},
    }


def gradients(model: torch.nn.Module) -> Arrays:
    """But for mere rounding."""
    named = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    least = ROUNDING * max(one.abs().max() for one in named.values())
    return {name: one for name, one in named.items() if one.abs().max() > least}


@torch.no_grad() if torch else lambda function: function
def loaded(model: torch.nn.Module, like: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """With the recorded weights, or random ones where a layer that says nothing would not show."""
    recorded = {name.removeprefix("param/"): one for name, one in like.items() if name.startswith("param/")}
    if recorded:
        model.load_state_dict({name: torch.from_numpy(one) for name, one in recorded.items()})
        return model
    for one in model.parameters():
        if one.ndim == 1:
            norm = bool((one == 1).all())
            one.copy_(torch.randn_like(one) * 0.1 + norm)
        elif not one.any():
            one.copy_(torch.randn_like(one) * one[0].numel() ** -0.5)
        if one.requires_grad:  # not of DiT's fixed places
            one.copy_(one.bfloat16().float())
    return model


if __name__ == "__main__":
    main()
