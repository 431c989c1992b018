"""Records taming's critic and losses, beside an autoencoder of theirs that was recorded: hinge, adaptive weight, steps.

    git clone https://github.com/CompVis/taming-transformers PATH
    python scripts/record_reference.py --path=PATH --model=record_vqgan:taming --range=-1,1 \\
        --arguments='{"width": 32, "multipliers": [1, 2], "codes": 32}' --input=images.npz --output=vqgan.npz
    python scripts/record_critic.py --checkout=PATH --autoencoder=vqgan.npz \\
        --arguments='{"width": 32, "multipliers": [1, 2], "codes": 32}' --output=vqgan_loss.npz

Needs torch, numpy and einops; on CPU, in float32. The generator's pass comes first, then both of the critic's, whose
statistics move in each. Written are `param/` of the critic, `param_autoencoder/` of the last layer alone, `input/`
(real and fake images, what the last layer is given), `output/` (logits, losses, the weight and what it is made of),
`grad_generator/` of the generator's whole loss, `grad_hinge/` and `grad_vanilla/` of the critic's, and statistics
`after_generator/` and `after_discriminator/`. The perceptual loss has weight 0. --like takes the critic's weights from
such a file, so that another version of PyTorch can be set beside the one that wrote it. The tests of the critic take
such a file, of the usual arguments, in place of their own: CRITIC_RECORDING=vqgan_loss.npz.
"""

from __future__ import annotations  # torch may be missing

import copy
import importlib
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from authors import begun, earlier, finish, parser_of
from record_reference import arrays

try:
    import torch
except ModuleNotFoundError:  # --help works without
    torch = None

CRITIC = {"disc_ndf": 16, "disc_num_layers": 2, "disc_weight": 0.8}
LOUD = 3.0  # times the last layer, so that some logits are beyond the hinge
LAST = "decoder.conv_out."
DIFFERENTIATED = (
    "encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.norm_out.weight",
    f"{LAST}weight", f"{LAST}bias", "quantize.embedding.weight", "quant_conv.weight", "post_quant_conv.weight",
)  # fmt: skip

Arrays = dict[str, Any]


def main() -> None:
    """Writes the file."""
    parser = parser_of(__doc__, "github.com/CompVis/taming-transformers")
    parser.add_argument("--autoencoder", type=Path, required=True, help="its recording: weights and images")
    parser.add_argument("--arguments", default="{}", help="as they were given to record_reference.py")
    parser.add_argument("--like", type=Path, help="a recording whose critic's weights are taken")
    given = begun(parser)
    file, like = dict(np.load(given.autoencoder)), earlier(given.like)
    model = autoencoder(json.loads(given.arguments), file)
    losses = players(like)
    found = dict(arrays(recorded(model, losses, torch.from_numpy(file["input/images"]))))
    found |= {f"meta/{name}": np.asarray(one, np.asarray(one).dtype.kind + "4") for name, one in CRITIC.items()}
    finish(given.output, found)


def autoencoder(arguments: Mapping[str, Any], file: Arrays) -> torch.nn.Module:
    """Theirs, as recorded."""
    model = importlib.import_module("record_vqgan").taming(**arguments)
    model.load_state_dict(state(file))
    return model.train()


def state(file: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The weights of a recording."""
    return {name.removeprefix("param/"): torch.from_numpy(file[name]) for name in file if name.startswith("param/")}


def players(like: Arrays) -> Any:
    """Their losses with a critic whose statistics are not at their start."""
    perceptual = types.ModuleType("taming.modules.losses.lpips")
    perceptual.LPIPS = torch.nn.Identity  # type: ignore[attr-defined]  # which would load weights, and weighs 0
    sys.modules["taming.modules.losses.lpips"] = perceptual
    code = importlib.import_module("taming.modules.losses.vqperceptual")
    losses = code.VQLPIPSWithDiscriminator(disc_start=0, perceptual_weight=0.0, **CRITIC).train()
    if like:
        losses.discriminator.load_state_dict(state(like))
    else:
        scattered(losses.discriminator)
    return losses


@torch.no_grad() if torch else lambda function: function
def scattered(critic: torch.nn.Module) -> None:
    """Random norms, biases and statistics, or a missing one would not show; the digits of bfloat16."""
    *_, last = (one for one in critic.modules() if isinstance(one, torch.nn.Conv2d))
    last.weight *= LOUD
    for name, one in critic.state_dict().items():
        if one.ndim == 1:
            drawn = torch.randn_like(one) * 0.1 + (name.endswith("weight") or name.endswith("var"))
            one.copy_(drawn.abs() if name.endswith("var") else drawn)
        if one.is_floating_point():
            one.copy_(one.bfloat16().float())


def recorded(model: Any, losses: Any, real: torch.Tensor) -> Arrays:
    """All arrays; the statistics move in the order of the passes."""
    critic, seen, given = losses.discriminator, [], []
    critic.register_forward_hook(lambda _, inputs, logits: seen.append(logits))
    model.decoder.conv_out.register_forward_hook(lambda _, inputs, image: given.append(inputs[0]))
    before, untouched = clones(critic.state_dict()), copy.deepcopy(losses)
    z_q, of_codes, _ = model.encode(real)
    fake, layer = model.decode(z_q), model.decoder.conv_out.weight
    total, told = losses(of_codes, real, fake, 0, 1, last_layer=layer)
    after_generator, nll, g_loss = statistics(critic), (real - fake).abs().mean(), -seen[0].mean()
    named = {name: one for name, one in model.named_parameters() if name in DIFFERENTIATED}
    d_loss, _ = losses(of_codes, real, fake, 1, 1)
    after_discriminator, (_, of_real, of_fake) = statistics(critic), seen[:3]
    vanilla = importlib.import_module(type(losses).__module__).vanilla_d_loss(of_real, of_fake)
    learned = dict(critic.named_parameters())
    untouched.discriminator_iter_start = 2  # a step later than this one
    early, _ = untouched(of_codes, real, fake, 0, 1, last_layer=layer)
    output = {
        "logits_generator": seen[0], "logits_real": of_real, "logits_fake": of_fake,
        "logits_real_eval": critic.eval()(real), "nll_loss": nll, "g_loss": g_loss, "codebook_loss": of_codes,
        "d_weight": told["train/d_weight"], "adaptive_weight": told["train/d_weight"] / losses.discriminator_weight,
        "total_loss": total, "total_loss_before_start": early, "d_loss": {"hinge": d_loss, "vanilla": vanilla},
    }  # fmt: skip
    for name, loss in {"nll": nll, "g": g_loss}.items():
        of_layer, of_image = torch.autograd.grad(loss, [layer, fake], retain_graph=True)
        output |= {f"last_layer_grad_{name}": of_layer, f"grad_{name}_fake": of_image}
    return {
        "param": before,
        "param_autoencoder": {name: one for name, one in model.state_dict().items() if name.startswith(LAST)},
        "input": {"real": real, "fake": fake, "before_conv_out": given[0]},
        "output": output,
        "grad_generator": gradients(total, named),
        "grad_hinge": gradients(d_loss, learned),
        "grad_vanilla": gradients(vanilla, learned),
        "after_generator": after_generator,
        "after_discriminator": after_discriminator,
    }


def clones(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in state.items()}


def statistics(critic: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what its norms have seen so far."""
    return clones(dict(critic.named_buffers()))


def gradients(loss: torch.Tensor, named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))


if __name__ == "__main__":
    main()
