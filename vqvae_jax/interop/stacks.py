"""Layers of a gated PixelCNN alone, as https://github.com/unixpickle/vq-vae-2 names them: no embedding, no logits.

A workdir of them has no stages: it can be compared and exported, nothing else. Its config.json says the layers:

    {"stack": [{"layer": "A", "depth_in": 3, …}, {"layer": "B", …}, {"layer": "attention", …}], "numbered": true}
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.interop.matches import Match, Shapes
from vqvae_jax.interop.places import Places, numbers, of_params
from vqvae_jax.priors.layers import PixelAttention, PixelConvA, PixelConvB
from vqvae_jax.priors.pixelcnn import PixelCNN
from vqvae_jax.types import Model, UserError

KINDS: dict[str, Any] = {"A": PixelConvA, "B": PixelConvB, "attention": PixelAttention}


def match(shapes: Shapes, heads: int) -> Match | None:
    """A layer A, alone or followed by layers B and attentions. facts are empty."""
    numbered = "vertical_conv.weight" not in shapes
    found = numbers(shapes, r"layer_(\d+)\.") if numbered else [0]
    if not found or any(len(shape) != 4 for name, shape in shapes.items() if name.endswith("_conv.weight")):
        return None
    layers = [layer(shapes, f"layer_{i}." if numbered else "", i, heads) for i in found]
    if None in layers:
        return None
    section = {"stack": layers, "numbered": numbered}
    module = build(section)
    like = abstract(module)
    title = f"{len(layers)} layer{'s'[: len(layers) - 1]} of the reference's PixelCNN"
    return Match(title, "stack", section, {}, module, like, places(module, like, numbered))


def layer(shapes: Shapes, start: str, number: int, heads: int) -> dict[str, Any] | None:
    """One entry of the config's `stack`."""
    projection = shapes.get(f"{start}attention.kqv_projection.weight")
    if projection:
        return attention(projection[-1], heads)
    if f"{start}vertical_conv.weight" not in shapes:
        return None
    wide, depth_in, rows, columns = shapes[f"{start}vertical_conv.weight"]
    far = {"cond_depth": shapes.get(f"{start}cond_layer.weight", (0,))[-1], "horizontal": columns // 2}
    if number == 0:
        return {"layer": "A", "depth_in": depth_in, "depth_out": wide // 2, **far, "vertical": rows}
    norm = f"{start}vert_norm.norm.weight" in shapes
    return {"layer": "B", "depth_in": depth_in, **far, "vertical": rows - 1, "norm": norm}


def attention(depth: int, heads: int) -> dict[str, Any]:
    """An attention over so many channels."""
    if depth % heads:
        raise UserError(f"--heads={heads}: {depth} channels of attention do not divide among them; --heads=N")
    return {"layer": "attention", "depth": depth, "heads": heads}


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
