"""Layers of a gated PixelCNN alone, as https://github.com/unixpickle/vq-vae-2 names them: no embedding, no logits.

A workdir of them has no stages: it can be compared and exported, nothing else. Its config.json says the layers:

    {"stack": [{"layer": "A", "depth_in": 3, …}, {"layer": "B", …}, {"layer": "attention", …}], "numbered": true}
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.interop.matches import HEADS, Match, Shapes, Tensors, vote
from vqvae_jax.interop.places import Places, numbers, of_params, shapes_of
from vqvae_jax.priors.layers import PixelAttention, PixelConvA, PixelConvB
from vqvae_jax.priors.stacks import PixelCNN
from vqvae_jax.types import Model, UserError

KINDS: dict[str, Any] = {"A": PixelConvA, "B": PixelConvB, "attention": PixelAttention}


def match(tensors: Tensors, heads: int) -> Match | None:
    """A layer A, alone or followed by layers B and attentions. facts are empty."""
    shapes = shapes_of(tensors)
    numbered = not any(name.startswith(("vertical_conv.", "horizontal_conv.")) for name in shapes)
    found = numbers(shapes, r"layer_(\d+)\.") if numbered else [0]
    if not found:
        return None
    layers = [first(shapes, "layer_0." if numbered else "")]
    layers += [later(shapes, f"layer_{i}.", layers[0]["depth_out"], heads) for i in found[1:]]
    section = {"stack": layers, "numbered": numbered}
    module, like, found_places = loaded(section)
    title = f"{len(layers)} layer{'s'[: len(layers) - 1]} of the reference's PixelCNN"
    return Match(title, "stack", section, {}, module, like, found_places)


def first(shapes: Shapes, start: str) -> dict[str, Any]:
    """The layer A, an entry of the config's `stack`."""
    wide, depth_in, rows, columns = shapes.get(f"{start}vertical_conv.weight", (2, 1, 2, 5))
    wide = shapes.get(f"{start}vertical_conv.bias", (wide,))[0]
    far = {"cond_depth": condition(shapes, start), "horizontal": columns // 2, "vertical": rows}
    return {"layer": "A", "depth_in": depth_in, "depth_out": wide // 2, **far}


def later(shapes: Shapes, start: str, depth: int, heads: int) -> dict[str, Any]:
    """A layer B or an attention."""
    if any(name.startswith(f"{start}attention.") for name in shapes):
        return attention(depth, heads or HEADS)
    _, _, rows, columns = shapes.get(f"{start}vertical_conv.weight", (0, 0, 3, 5))
    far = {"cond_depth": condition(shapes, start), "horizontal": columns // 2, "vertical": rows - 1}
    norm = any(name.startswith((f"{start}vert_norm.", f"{start}horiz_norm.")) for name in shapes)
    return {"layer": "B", "depth_in": depth, **far, "norm": norm}


def condition(shapes: Shapes, start: str) -> int:
    """Channels of the condition, 0 for none; all layers have the same."""
    if not any(name.startswith(f"{start}cond_layer.") for name in shapes):
        return 0
    return vote(shape[-1] for name, shape in shapes.items() if name.endswith("cond_layer.weight")) or 1


def attention(depth: int, heads: int) -> dict[str, Any]:
    """An attention over so many channels."""
    if depth % heads:
        raise UserError(f"--heads={heads}: {depth} channels of attention do not divide among them; --heads=N")
    return {"layer": "attention", "depth": depth, "heads": heads}


def loaded(config: Mapping[str, Any]) -> tuple[PixelCNN, Model, Places]:
    """The layers of a workdir's config, shapes of their parameters, and where the tensors of their twin lie."""
    module = build(config)
    like = abstract(module)
    return module, like, places(module, like, config["numbered"])


def build(config: Mapping[str, Any]) -> PixelCNN:
    """The layers of a workdir's config."""
    return PixelCNN(tuple(one(fields) for fields in config["stack"]))


def one(fields: Mapping[str, Any]) -> Any:
    return KINDS[fields["layer"]](**{name: value for name, value in fields.items() if name != "layer"})


def abstract(module: PixelCNN) -> Model:
    """Shapes of its parameters; nothing is computed."""
    first = module.layers[0]
    x = jax.ShapeDtypeStruct((1, 4, 4, first.depth_in), jnp.float32)
    cond: Any = jax.ShapeDtypeStruct((1, first.cond_depth), jnp.float32) if first.cond_depth else None
    return Model(jax.eval_shape(module.init, jax.random.key(0), x, cond)["params"], {})


def places(module: PixelCNN, like: Model, numbered: bool) -> Places:
    """Where the tensors of its PyTorch twin lie."""
    start = r"layer_\1." if numbered else ""
    rules = ((r"\.(kqv_projection|mix_heads)\.", r".attention.\1."), (r"^layers_(\d+)\.", start))
    return of_params(like.params, rules)
