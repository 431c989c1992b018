"""The U-Net of latent diffusion, as Stable Diffusion 1 has it, by its authors' names or diffusers'.

Without the text encoder whose states it is told (stable_diffusion.py has both) it is imported as a bare network, whose
workdir has no stages. Its config.json says the network, what it is given, and how wide what it attends to is:

    {"stack": [{"layer": "unet", "names": "original", "given": 4, "context": 768, "channels": 4, "width": 320, …}]}
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.interop.matches import Match, Shapes, Tensors
from vqvae_jax.interop.places import Places, of_params, shapes_of
from vqvae_jax.interop.state_dicts import UNET
from vqvae_jax.interop.unet_names import NAMES
from vqvae_jax.networks.unet import UNet
from vqvae_jax.types import Model, UserError

TITLE = "latent diffusion's U-Net"
LAYER = "unet"
TOLD = "attn2.to_k.weight"  # the end of the names of what sees a context
HEADS = 8  # Stable Diffusion 1's


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels, blocks and transformers, with a context or without. facts are empty.

    Raises:
        UserError: heads do not divide its widths.
    """
    start = UNET if all(name.startswith(UNET) for name in tensors) else ""
    shapes = {name.removeprefix(start): shape for name, shape in shapes_of(tensors).items()}
    if (kind := kind_of(shapes)) is None:
        return None
    section = {"stack": [described(shapes, kind, heads or HEADS)]}
    module, like, places = loaded(section)
    context = section["stack"][0]["context"]
    told = f", told vectors of {context}" if context else ""
    title = f"{TITLE}, {module.width} wide, {len(module.factors)} levels{told}"
    named = {f"{start}{name}": place for name, place in places.items()}
    return Match(title, "stack", section, {}, module, like, named)


def kind_of(tensors: Mapping[str, Any]) -> str | None:
    """By whose names it is a U-Net; None where it is none."""
    return next((kind for kind, names in NAMES.items() if {names.first, names.last} <= set(tensors)), None)


def context_of(tensors: Mapping[str, Any]) -> int:
    """How wide the vectors are that it is told; 0 where it is told none."""
    widths = [one.shape[-1] for name, one in tensors.items() if name.endswith(TOLD) and one.shape]
    return widths[0] if widths else 0


def described(shapes: Shapes, kind: str, heads: int) -> dict[str, Any]:
    """The entry of the config's `stack`."""
    names = NAMES[kind]
    width, given, _, _ = shapes[names.first]
    levels, blocks = names.sizes(shapes)
    parts = [names.parts(level, blocks) for level in range(levels)]
    widths = [shapes.get(f"{block}.{names.conv2}.bias", (width,))[0] for block, _ in parts]
    if uneven := [wide for wide in widths if wide % heads]:
        raise UserError(f"--heads={heads}: {uneven[0]} channels of {TITLE} do not divide among them; --heads=N")
    contexts = [shape[-1] for name, shape in shapes.items() if name.endswith(TOLD)]
    return {
        "layer": LAYER,
        "names": kind,
        "given": given,
        "context": (contexts or [0])[0],
        "channels": shapes[names.last][0],
        "width": width,
        "factors": [max(1, wide // width) for wide in widths],
        "blocks": blocks,
        "attention": [level for level, (_, attends) in enumerate(parts) if f"{attends}.proj_in.weight" in shapes],
        "heads": heads,
    }


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a workdir's config says a U-Net and not layers of a PixelCNN."""
    return bool(config["stack"][0]["layer"] == LAYER)


def loaded(config: Mapping[str, Any]) -> tuple[UNet, Model, Places]:
    """The network of a workdir's config, shapes of its parameters, and where the tensors of its twin lie."""
    (layer,) = config["stack"]
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in layer.items()}
    names, given, context, _ = (fields.pop(name) for name in ("names", "given", "context", "layer"))
    module = UNet(**fields)
    like = abstract(module, given, context)
    return module, like, of_params(like.params, NAMES[names].renames(module))


def abstract(module: UNet, given: int, context: int) -> Model:
    """Shapes of its parameters, given so many numbers a place; nothing is computed."""
    shapes = (1, module.stride, module.stride, given), (1,), (1, 1, context)
    x, time, told = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    init = lambda x, time, told: module.init(jax.random.key(0), x, time, None, told)  # noqa: E731
    return Model(jax.eval_shape(init, x, time, told if context else None)["params"], {})
