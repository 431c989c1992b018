"""MaskGIT's tokenizer and transformer by the names that Flax gave them in https://github.com/google-research/maskgit.

Layers without a name of their own are numbered in the order of use, in encoder and decoder each: convolutions, norms,
residual blocks. Arrays lie as ours do, but for the heads of attention, which are an axis there.
"""

import math
import re
from typing import Any

from vqvae_jax import parts
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.interop.matches import Match, Shapes, Tensors, vote
from vqvae_jax.interop.places import AS_IT_IS, Layout, Place, Places, by_path, numbers, shapes_of
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.types import Level, Model, UserError

CODES = "quantizer/codebook"
WORDS, PLACES = "Embed_0/word_embeddings/embedding", "Embed_0/position_embeddings/embedding"
TOKENIZER, TRANSFORMER = "MaskGIT's tokenizer", "MaskGIT's transformer"  # begin the titles
LOSS_WEIGHTS = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
ADAM = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.96, "weight_decay": 0.045, "warmup_steps": 5000}  # the transformer's
STRIDE = 16  # pixels a code, of the published tokenizers


# The tokenizer.


def match_tokenizer(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels and codes. facts: channels, image_size and range as published, loss_weights."""
    shapes = slashed(shapes_of(tensors))
    convs = numbers(shapes, r"decoder/Conv_(\d+)/")
    blocks = len(numbers(shapes, r"encoder/ResBlock_(\d+)/")) // (max(convs, default=0) + 1)
    if not convs or not blocks:
        return None
    *_, channels, width = (*shapes.get("encoder/Conv_0/kernel", ()), 3, 128)[:4]
    section = tokenizer_section(shapes, max(1, convs[-1]), blocks, width)
    facts = {"channels": channels, "image_size": 256, "range": (0.0, 1.0), "loss_weights": LOSS_WEIGHTS}
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts | {"image_size": 2 ** len(section["factors"])})
    title = f"{TOKENIZER}, {width} wide, {len(section['factors'])} levels"
    places = as_in(tensors, tokenizer_places(module, like))
    return Match(title, "autoencoder", section, facts, module, like, places)


def tokenizer_section(shapes: Shapes, levels: int, blocks: int, width: int) -> dict[str, Any]:
    """The section `autoencoder` of a config for a tokenizer of these shapes."""
    size, code_dim = shapes.get(CODES, (1024, 256))
    kernels = [[f"encoder/ResBlock_{blocks * i + j}/Conv_0/kernel" for j in range(blocks)] for i in range(levels)]
    widths = [vote(shapes[name][-1] for name in level if name in shapes) or width for level in kernels]
    return {
        "name": "vqgan",
        **PRESETS["maskgit"],
        "width": width,
        "factors": tuple(max(1, wide // width) for wide in widths),
        "blocks": blocks,
        "decoder_blocks": blocks,
        "middle_blocks": blocks,
        "quantizer": {"name": "vq", "codebook_size": size, "code_dim": code_dim, "revive_after": 0},
        "quantizers": {},
    }


def is_tokenizer(module: Any) -> bool:
    """Whether it is MaskGIT's network and not taming's: of any width, depth and codes."""
    if not isinstance(module, VQGAN):
        return False
    attention = module.attention or (module.middle_attention and module.middle_blocks)
    changed = (module.down, module.shortcut, module.biases, module.code_kernel)
    return not attention and changed == ("average", "branch", False, 0)


def tokenizer_places(module: VQGAN, like: Model) -> Places:
    """Where the arrays of the tokenizer lie, by the authors' names."""
    found = {tokenizer_name(module, path): Place(("params", *path), AS_IT_IS) for path in by_path(like.params)}
    return found | {CODES: Place(("codebooks", LEVEL, "codes"), AS_IT_IS)}


def tokenizer_name(module: VQGAN, path: tuple[str, ...]) -> str:
    """Of a parameter: encoder.down1_block0.conv1.kernel is encoder/ResBlock_2/Conv_0/kernel where levels have two."""
    part, layer, *inside = path
    numbered = in_encoder(module, layer) if part == "encoder" else in_decoder(module, layer)
    return "/".join((part, numbered, *(BLOCK.get(name, name) for name in inside)))


BLOCK = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "norm2": "GroupNorm_1", "conv2": "Conv_1", "shortcut": "Conv_2"}


def in_encoder(module: VQGAN, layer: str) -> str:
    """Levels from the finest, then the middle."""
    level, block = numbers_in(layer)
    if layer.startswith("middle"):
        level, block = len(module.factors), level
    last = {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "conv_out": "Conv_1"}
    return last.get(layer) or f"ResBlock_{level * module.blocks + block}"


def in_decoder(module: VQGAN, layer: str) -> str:
    """The middle, then levels from the coarsest."""
    level, block = numbers_in(layer)
    before = len(module.factors) - 1 - level  # coarser levels
    if layer.endswith("double"):
        return f"Conv_{before + 1}"
    if layer.startswith("middle"):
        return f"ResBlock_{level}"
    last = {"conv_in": "Conv_0", "norm_out": "GroupNorm_0", "conv_out": f"Conv_{len(module.factors)}"}
    blocks = module.decoder_blocks or module.blocks + 1
    return last.get(layer) or f"ResBlock_{module.middle_blocks + before * blocks + block}"


def numbers_in(layer: str) -> tuple[int, int]:
    """down1_block0 → 1, 0; what is missing is 0."""
    first, second, *_ = (*map(int, re.findall(r"\d+", layer)), 0, 0)
    return first, second


# The transformer.


def match_transformer(tensors: Tensors, heads: int) -> Match | None:
    """Any width, layers, heads and square map. facts: vocab_size, coarse_sizes, num_labels, shape; autoencoder and
    image_size, as published; guessed: whether the labels are.

    How many words are codes no shape shows: without a place for the label all but the mask, else the largest power of
    two that leaves a label; `of_codes` says otherwise.
    """
    shapes = slashed(shapes_of(tensors))
    if WORDS not in shapes or PLACES not in shapes:
        return None
    (words, _), (places, _) = shapes[WORDS], shapes[PLACES]
    labelled = math.isqrt(places) ** 2 != places
    if labelled and math.isqrt(places - 1) ** 2 != places - 1:
        raise UserError(f"{PLACES} has {places} places: {TRANSFORMER} wants those of a square map, or one more")
    if words < (4 if labelled else 2):
        raise UserError(f"{WORDS} has {words} words: too few for codes and a mask" + ", and labels" * labelled)
    codes = 2 ** ((words - 2).bit_length() - 1) if labelled else words - 1
    match = transformer(tensors, shapes, codes, math.isqrt(places))
    facts = match.facts | {"guessed": labelled}
    return match._replace(facts=facts, of_codes=lambda codes: of_codes(match, tensors, codes))


def transformer(tensors: Tensors, shapes: Shapes, codes: int, side: int) -> Match:
    """The match of a transformer of which so many words are codes, on a square map of this side."""
    words, width = shapes[WORDS]
    labels = words - 1 - codes
    _, heads, _ = shapes.get("TransformerLayer_0/Attention_0/self_attention/query/kernel", (width, 1, width))
    _, inner = shapes.get("TransformerLayer_0/Mlp_0/intermediate_output/kernel", (width, 4 * width))
    fields: dict[str, Any] = {
        "width": width,
        "layers": len(numbers(shapes, r"TransformerLayer_(\d+)/")),
        "heads": heads,
        "mlp": max(1, inner // width),
        "dropout": 0.1,
        "norm": "post",
        "local": False,
        "smoothing": 0.1,
        "label_condition": labels > 0,
        "label_dropout": 0.0,
        "sample_steps": 8 if side <= 16 else 12,  # the paper's, table 1
    }
    module = MaskGITPrior(maps=(Level(LEVEL, (side, side), codes),), num_labels=labels, **fields)
    like = parts.abstract_prior(module)
    quantizer = {**PRESETS["maskgit"]["quantizer"], "codebook_size": codes}
    facts = {
        "vocab_size": codes,
        "coarse_sizes": (),
        "num_labels": labels,
        "shape": (side, side),
        "autoencoder": {"name": "vqgan", **PRESETS["maskgit"], "quantizer": quantizer},
        "image_size": side * STRIDE,
    }
    section = {"name": "maskgit", **fields, "optimizer": ADAM}
    title = f"{TRANSFORMER}, {width} wide, {fields['layers']} layers, {side}x{side} of {codes} codes, {labels} labels"
    return Match(title, "prior", section, facts, module, like, as_in(tensors, transformer_places(module, like)))


def of_codes(match: Match, tensors: Tensors, codes: int) -> Match:
    """A transformer's match, where its codes are known to be so many.

    Raises:
        UserError: its words are too few.
    """
    shapes, labelled = slashed(shapes_of(tensors)), match.section["label_condition"]
    words = shapes[WORDS][0]
    if (codes + 2 > words) if labelled else (codes + 1 != words):
        wanted = f"{codes} codes, a mask" + " and labels" * labelled
        raise UserError(f"{match.title} has {words} words; the autoencoder of this workdir wants {wanted}")
    return transformer(tensors, shapes, codes, match.facts["shape"][0])


def words_of(module: MaskGITPrior) -> str:
    """One line for users of the authors' code: what a sequence is made of."""
    label = f"{module.vocab_size} + label, then " if module.label_condition else ""
    return f"int32 [N, {module.length + module.label_condition}], {label}tokens, {module.mask} in place of hidden ones"


def transformer_places(module: MaskGITPrior, like: Model) -> Places:
    """Where its arrays lie; what the authors have no name for (norms before, local, text, coarser maps) keeps ours."""
    return {
        transformer_name(module, path): Place(("params", *path), layout_of(path, leaf.shape, module.heads))
        for path, leaf in by_path(like.params).items()
    }


def layout_of(path: tuple[str, ...], shape: tuple[int, ...], heads: int) -> Layout:
    """Queries, keys and values [W, heads, size], their biases [heads, size], what mixes them [heads, size, W]."""
    layer, kind = path[-2:] if len(path) > 1 else ("", "")
    if layer in ("query", "key", "value"):
        return Layout(lambda x: x.reshape(*shape[:-1], heads, -1), lambda x: x.reshape(shape))
    if (layer, kind) == ("mix_heads", "kernel"):
        return Layout(lambda x: x.reshape(heads, -1, shape[-1]), lambda x: x.reshape(shape))
    return AS_IT_IS


def transformer_name(module: MaskGITPrior, path: tuple[str, ...]) -> str:
    """Of a parameter: blocks_0.up.kernel is TransformerLayer_0/Mlp_0/intermediate_output/kernel."""
    name = "/".join(path)
    for pattern, theirs in TRANSFORMERS if module.norm == "post" else TRANSFORMERS[1:]:
        name = re.sub(pattern, theirs, name)
    return name


TRANSFORMERS = (
    (r"^end_norm/", "Embed_0/embeddings_ln/"),  # of norms after, alone
    (r"^words/", "Embed_0/word_embeddings/"),
    (r"^places/", "Embed_0/position_embeddings/"),
    (r"^head/", "MlmLayer_0/mlm_dense/"),
    (r"^head_norm/", "MlmLayer_0/mlm_ln/"),
    (r"^bias$", "MlmLayer_0/mlm_bias/bias"),
    (r"^blocks_(\d+)/", r"TransformerLayer_\1/"),
    (r"/(query|key|value)/", r"/Attention_0/self_attention/\1/"),
    (r"/mix_heads/", "/Attention_0/self_attention/out/"),
    (r"/norm1/", "/Attention_0/attention_output_ln/"),
    (r"/up/", "/Mlp_0/intermediate_output/"),
    (r"/down/", "/Mlp_0/layer_output/"),
    (r"/norm2/", "/Mlp_0/layer_output_ln/"),
)


# Names with "/" or, as a flattened tree is often saved, with ".".


def slashed(shapes: Shapes) -> Shapes:
    """By names with "/"."""
    return shapes if any("/" in name for name in shapes) else {n.replace(".", "/"): s for n, s in shapes.items()}


def as_in(tensors: Tensors, places: Places) -> Places:
    """By names as the file has them."""
    if any("/" in name for name in tensors):
        return places
    return {name.replace("/", "."): place for name, place in places.items()}
