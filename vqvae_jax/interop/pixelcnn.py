"""Priors of https://github.com/unixpickle/vq-vae-2 by their own names: MNIST generator, TopPrior, BottomPrior.

Also anything between them: embedding, one layer A, any layers B with or without attention and norms, then either the
sum of both stacks or an output stack. What the reference has no name for (labels, several coarser maps) keeps ours.
"""

from typing import Any

from vqvae_jax import parts
from vqvae_jax.interop.matches import HEADS, Match, Shapes, Tensors, vote
from vqvae_jax.interop.places import Places, Renames, Shape, numbers, of_params, shapes_of
from vqvae_jax.priors import PRIORS
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.types import Level, Model, UserError

KINDS = {"mnist_generator": "MNIST generator", "top_prior": "TopPrior", "bottom_prior": "BottomPrior"}
SIDE = 64  # of the map; no weight depends on it


def match(tensors: Tensors, heads: int) -> Match | None:
    """facts: vocab_size, coarse_sizes, num_labels."""
    shapes = shapes_of(tensors)
    stack = "model" if any(name.startswith("model.layer_") for name in shapes) else "pixel_cnn"
    layers = numbers(shapes, rf"{stack}\.layer_(\d+)\.")
    if not layers:
        return None
    embed = shapes.get("embed_bottom.weight" if "embed_top.weight" in shapes else "embed.weight", (512, 64))
    depth = vote(shape[0] for name, shape in shapes.items() if name.endswith("horiz_residual.bias"))
    fields: dict[str, Any] = {"depth": depth or embed[-1], "heads": heads or HEADS}
    fields |= {**stack_fields(shapes, stack, layers), **ends(shapes)}
    labels = shapes.get("embed_label.weight", (1,))[0] - 1
    facts: dict[str, Any] = {"vocab_size": embed[0], "coarse_sizes": coarse_sizes(shapes), "num_labels": labels}
    if labels:  # whether some were hidden in training no weight shows; a guess would be guided towards noise
        fields |= {"label_condition": True, "label_dropout": 0.0}
    *above, own = levels(**facts)
    module = PRIORS["pixelcnn"](maps=(own,), above=tuple(above), num_labels=labels, **fields)
    like = parts.abstract_prior(module)
    name, title = named(fields, facts)
    unused = unused_tensors(shapes, stack, module)
    return Match(title, "prior", {"name": name, **fields}, facts, module, like, places(module, like), unused)


def levels(vocab_size: int, coarse_sizes: tuple[int, ...], **_: Any) -> list[Level]:
    """The map that it models after those above, each half of the next."""
    sizes = (*coarse_sizes, vocab_size)
    sides = [SIDE >> (len(coarse_sizes) - i) for i in range(len(sizes))]
    return [Level(f"map {i}", (side, side), size) for i, (side, size) in enumerate(zip(sides, sizes, strict=True))]


def stack_fields(shapes: Shapes, stack: str, layers: list[int]) -> dict[str, Any]:
    """Of the PixelCNN itself."""
    _, _, vertical, wide = (*shapes.get(f"{stack}.layer_0.vertical_conv.weight", ()), 1, 1, 2, 5)[:4]
    attention = numbers(shapes, rf"{stack}\.layer_(\d+)\.attention\.")
    convs = [i for i in layers if i and i not in attention]
    return {
        "layers": len(convs),
        "attention_after": tuple(sum(conv < i for conv in convs) for i in attention),
        "norm": bool(numbers(shapes, rf"{stack}\.layer_(\d+)\.(?:vert|horiz)_norm\.")) or not convs,
        "horizontal": wide // 2,
        "vertical": vertical,
    }


def ends(shapes: Shapes) -> dict[str, Any]:
    """How both stacks become logits, and how many blocks read a coarser map."""
    blocks = len(numbers(shapes, r"out_stack\.(\d+)\.conv1\."))
    merge = "sum" if "to_logits.weight" in shapes and "merge_stacks.weight" not in shapes else "concat"
    above = len(numbers(shapes, r"cond_stack\.(\d+)\.conv1\.") or numbers(shapes, r"coarse_stack\.block0_(\d+)\."))
    return {"merge": merge, "output_blocks": blocks, "condition_blocks": above}


def coarse_sizes(shapes: Shapes) -> tuple[int, ...]:
    """Codes of the maps above."""
    if "embed_top.weight" in shapes:
        return (shapes["embed_top.weight"][0],)
    above = numbers(shapes, r"coarse_stack\.embed(\d+)\.weight")
    return tuple(shapes[f"coarse_stack.embed{i}.weight"][0] for i in above)


def named(fields: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str]:
    """The class of the reference whose layers these are, and how it is called."""
    for name, title in KINDS.items():
        kind: Any = PRIORS[name]
        layers = ["layers", "attention_after", "merge", "output_blocks", "norm", "horizontal", "vertical"]
        layers += ["condition_blocks"] if facts["coarse_sizes"] else []
        conditioned = bool(facts["coarse_sizes"]) == (name == "bottom_prior")
        if conditioned and all(fields[one] == getattr(kind, one) for one in layers):
            return name, f"the reference's {title}, {fields['depth']} deep"
    return "pixelcnn", f"a gated PixelCNN of {fields['layers']} layers B, {fields['depth']} deep"


def unused_tensors(shapes: Shapes, stack: str, module: PixelCNNPrior) -> dict[str, Shape]:
    """The MNIST generator's layers B have a `cond_layer` and never a condition, a slip; where one is, all are."""
    if module.above or module.label_condition:
        return {}
    found = numbers(shapes, rf"{stack}\.layer_([1-9]\d*)\.cond_layer\.")
    return unused_by_generator(module, stack) if found else {}


def unused_by_generator(module: PixelCNNPrior, stack: str = "model") -> dict[str, Shape]:
    """Names and shapes of those."""
    depth = module.depth
    weight = {f"{stack}.layer_{i}.cond_layer.weight": (4 * depth, depth) for i in range(1, module.layers + 1)}
    return weight | {f"{stack}.layer_{i}.cond_layer.bias": (4 * depth,) for i in range(1, module.layers + 1)}


def places(module: PixelCNNPrior, like: Model) -> Places:
    """Where the tensors of its PyTorch twin lie.

    Raises:
        UserError: it reads several tokens a place; no twin does, and `match` would not know it again.
    """
    if module.depths > 1 or len({level.shape for level in module.above}) < len(module.above):
        raise UserError("there is no PyTorch reference of a PixelCNN that reads residual codes; it cannot be exported")
    return of_params(like.params, renames(module))


def renames(module: PixelCNNPrior) -> Renames:
    """Ours to theirs; which stack has which name depends on the class it is a twin of."""
    rules: Renames = ((r"\.(kqv_projection|mix_heads)\.", r".attention.\1."), (r"\.layers_(\d+)\.", r".layer_\1."))
    if module.merge == "sum":
        rules += ((r"^pixel_cnn\.", "model."),)
    else:
        rules += (
            (r"^merge_stacks\.", "out_stack.0."),
            (r"^blocks_(\d+)\.", lambda found: f"out_stack.{int(found[1]) + 1}."),
            (r"^to_logits\.", f"out_stack.{module.output_blocks + 1}."),
        )
    if len(module.above) == 1:
        rules += (
            (r"^embed\.", "embed_bottom."),
            (r"^coarse_stack\.embed0\.", "embed_top."),
            (r"^coarse_stack\.block0_(\d+)\.", r"cond_stack.\1."),
            (r"^coarse_stack\.up0\.", f"cond_stack.{module.condition_blocks}."),
        )
    return rules
