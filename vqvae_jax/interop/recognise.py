"""Which architecture a file holds the weights of. To add one: write its file, and a line here."""

import re

from vqvae_jax.interop import (
    diffusers,
    diffusion,
    dvae,
    hierarchical,
    maskgit,
    pixelcnn,
    stable_diffusion,
    stacks,
    unet,
    var,
    var_prior,
    vqgan,
    vqvae2,
)
from vqvae_jax.interop.matches import Match, Matcher, Shapes, Tensors
from vqvae_jax.interop.npz_files import PREFIX, prefixes
from vqvae_jax.interop.places import differences, shapes_of
from vqvae_jax.interop.reading import plain
from vqvae_jax.interop.state_dicts import part
from vqvae_jax.types import UserError

AXES = (  # of tensors by name
    (r"\.vq\.dictionary$|^quantize_[tb]\.(embed|embed_avg)$|^embed(_top|_bottom|_label)?\.weight$", 2),
    (r"\.(cond_layer|kqv_projection|mix_heads)\.weight$", 2),
    (r"(^|\.)(vertical_conv|horizontal_conv|vert_to_horiz|horiz_residual)\.weight$", 4),
    (r"\.vq\.usage_count$|^quantize_[tb]\.cluster_size$|_norm\.norm\.(weight|bias)$", 1),
    (r"^(encoder|decoder)_\d+\..*bias$|^(enc|dec)(_[tb])?\.blocks\..*bias$|layer_\d+\..*bias$", 1),
    (r"^(quantize\.)?embed(ding)?\.weight$", 2),
    (r"^(encoder|decoder)\.blocks\..*\.w$|^quantize\.proj\.weight$", 4),
    (r"^(encoder|decoder)\.blocks\..*\.b$|^quantize\.proj\.bias$", 1),
    (r"^(encoder|decoder)\..*(norm\d?|norm_out)\.weight$|^((encoder|decoder)\.|(post_)?quant_conv\.).*bias$", 1),
    (r"^(encoder|decoder)\..*\b(?!conv_norm)(conv\w*|q|k|v|qkv|proj_out|nin_shortcut)\.weight$", 4),
    (r"^(post_)?quant_conv\.weight$", 4),
    (r"\.attentions\.\d+\.(to_[qkv]|to_out\.0|query|key|value|proj_attn)\.weight$", 2),
    (r"^(encoder|decoder)_\d+\.(conv|residual).*weight$|^(enc|dec)(_[tb])?\.blocks\..*weight$", 4),
    (r"^quantizer[/.]codebook$|[/.](word|position)_embeddings[/.]embedding$|[/.]intermediate_output[/.]kernel$", 2),
    (r"[/.]self_attention[/.](query|key|value|out)[/.]kernel$", 3),
    (r"^(encoder|decoder)[/.].*Conv_\d+[/.]kernel$", 4),
    (r"^(quantize\.)?quant_resi\..*weight$|\.scale_mul_1H11$|^attn_bias_for_masking$", 4),
    (r"^(quantize\.)?quant_resi\..*bias$", 1),
    (r"^(word_embed|lvl_embed|class_emb|head|head_nm\..*)\.weight$|^quantize\.ema_vocab_hit_SV$", 2),
    (r"^pos_embed$|^pos_start$|^pos_1LC$", 3),
    (r"^(model\.diffusion_model\.)?(input_blocks\.0\.0|out\.2|conv_in|conv_out)\.weight$", 4),
    (r"\.attn2\.to_k\.weight$|\.embeddings\.(token|position)_embedding\.weight$", 2),
    (r"\.out_layers\.3\.bias$|^down_blocks\.\d+\.resnets\.\d+\.conv2\.bias$", 1),
    (r"^x_embedder\.proj\.weight$", 4),
    (r"^y_embedder\.embedding_table\.weight$|^blocks\.\d+\..*weight$|^final_layer\..*weight$", 2),
    (r"^blocks\.\d+\..*bias$|^final_layer\..*bias$", 1),
)
MATCHERS: dict[str, Matcher] = {
    "the reference's hierarchical VAE": hierarchical.match,
    "rosinality's VQ-VAE-2": vqvae2.match,
    "taming's VQ-GAN": vqgan.match_taming,
    vqgan.GUMBEL.title: vqgan.match_gumbel,
    vqgan.FIRST_STAGE.title: vqgan.match_first_stage,
    diffusers.TITLE: diffusers.match,
    var.TOKENIZER: var.match_tokenizer,
    "LlamaGen's VQ-GAN": vqgan.match_llamagen,
    dvae.TITLE: dvae.match,
    maskgit.TOKENIZER: maskgit.match_tokenizer,
    maskgit.TRANSFORMER: maskgit.match_transformer,
    var_prior.TITLE: var_prior.match,
    diffusion.TITLE: diffusion.match,
    unet.TITLE: unet.match,
    stable_diffusion.TITLE: stable_diffusion.match,
    "the reference's priors": pixelcnn.match,
    "layers of the reference's PixelCNN": stacks.match,
    var.QUANTIZER: var.match_quantizer,
}


def recognise(tensors: Tensors, source: object, heads: int) -> Match:
    """The architecture that has exactly these names and shapes.

    Args:
        tensors: by name, without prefixes of wrappers.
        source: the file, for the message.
        heads: of attention, which no shape shows; 0: as published.

    Raises:
        UserError: none has; the closest is named, with all that differs.
    """
    shapes = {plain(name): shape for name, shape in shapes_of(tensors).items()}
    check_axes(shapes, source)
    matches = [found for title in MATCHERS if (found := tried(title, tensors, heads, source))]
    for match in matches:
        if match.wanted == shapes:
            return match
    if not matches:
        if parts := known_below(tensors, heads, source):
            raise UserError(f"{source} holds weights under prefixes; choose one by --key=PREFIX: {', '.join(parts)}")
        shown = ", ".join(list(shapes)[:5])
        raise UserError(
            f"{source} holds no architecture that is known, but {len(shapes)} tensors such as {shown}; "
            f"known are {', '.join(MATCHERS)}"
        )
    closest = max(matches, key=lambda match: agreeing(match.wanted, shapes))
    said = "; ".join(differences(closest.wanted, shapes))
    raise UserError(f"{source} is not quite what is known; the closest is {closest.title}. {said}")


def known_below(tensors: Tensors, heads: int, source: object) -> list[str]:
    """The prefixes NAME/param in an .npz, under which something known lies."""
    starts = [f"{name}/{PREFIX}" for name in prefixes(tensors, PREFIX)]
    return [plain(start) for start in starts if _some_known(part(tensors, start, "/"), heads, source)]


def _some_known(tensors: Tensors, heads: int, source: object) -> bool:
    """Whether a matcher knows them, if only to refuse their shapes."""
    try:
        return any(tried(title, tensors, heads, source) for title in MATCHERS)
    except UserError:
        return True


def tried(title: str, tensors: Tensors, heads: int, source: object) -> Match | None:
    """What one matcher says; shapes that make no sense to it are told as such."""
    try:
        return MATCHERS[title](tensors, heads)
    except UserError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of our modules, built with odd sizes
        reason = plain(str(error).split("\n")[0])
        raise UserError(f"{source} looks like {title}, and its shapes do not belong together: {reason}") from error


def check_axes(shapes: Shapes, source: object) -> None:
    """UserError where a tensor whose name is known has another number of axes, or is empty; all are named."""
    wrong = [f"{name} is {list(shape)}" for name, shape in shapes.items() if 0 in shape]
    for pattern, axes in AXES:
        wrong += [
            f"{name} is {list(shape)}, not of {axes} axes"
            for name, shape in shapes.items()
            if re.search(pattern, name) and len(shape) != axes
        ]
    if wrong:
        raise UserError(f"{source} has tensors of another shape: {', '.join(wrong)}")


def agreeing(wanted: Shapes, there: Shapes) -> int:
    """How many tensors have the same name and shape."""
    return sum(there.get(name) == shape for name, shape in wanted.items())
