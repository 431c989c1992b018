"""Names and shapes of the published files of VQ-GAN's kind, written from their description alone."""

import re

NORM = ("weight", "bias")


def conv(name, out, into, size):
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def norm(name, channels):
    return {f"{name}.{part}": (channels,) for part in NORM}


def residual(name, into, out):
    found = norm(f"{name}.norm1", into) | conv(f"{name}.conv1", out, into, 3)
    found |= norm(f"{name}.norm2", out) | conv(f"{name}.conv2", out, out, 3)
    return found if into == out else found | conv(f"{name}.nin_shortcut", out, into, 1)


def attention(name, channels):
    found = norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        found |= conv(f"{name}.{part}", channels, channels, 1)
    return found


def middle(name, channels, llamagen):
    one, two, three = ("0", "1", "2") if llamagen else ("block_1", "attn_1", "block_2")
    found = residual(f"{name}.mid.{one}", channels, channels) | attention(f"{name}.mid.{two}", channels)
    return found | residual(f"{name}.mid.{three}", channels, channels)


def published(width, factors, codes, code_dim, llamagen=False, z=256, blocks=2, attention_in=(-1,)):
    """Name → shape of all tensors of the autoencoder; without codes it is latent diffusion's, over numbers."""
    twice = 1 if codes else 2
    attends = {len(factors) - 1 if level == -1 else level for level in attention_in}
    level, block, attn = ("conv_blocks", "res", "attn") if llamagen else ("{}", "block", "attn")
    down, up, last = level.format("down"), level.format("up"), len(factors) - 1
    found, here = conv("encoder.conv_in", width, 3, 3), width
    for i, factor in enumerate(factors):
        for j in range(blocks):
            found |= residual(f"encoder.{down}.{i}.{block}.{j}", here, width * factor)
            here = width * factor
            found |= attention(f"encoder.{down}.{i}.{attn}.{j}", here) if i in attends else {}
        found |= conv(f"encoder.{down}.{i}.downsample.conv", here, here, 3) if i < last else {}
    found |= middle("encoder", here, llamagen) | norm("encoder.norm_out", here)
    found |= conv("encoder.conv_out", twice * z, here, 3) | conv("quant_conv", twice * code_dim, twice * z, 1)
    found |= {"quantize.embedding.weight": (codes, code_dim)} if codes else {}
    found |= conv("post_quant_conv", z, code_dim, 1) | conv("decoder.conv_in", here, z, 3)
    found |= middle("decoder", here, llamagen)
    for i in range(last, -1, -1):
        number = last - i if llamagen else i
        for j in range(blocks + 1):
            found |= residual(f"decoder.{up}.{number}.{block}.{j}", here, width * factors[i])
            here = width * factors[i]
            found |= attention(f"decoder.{up}.{number}.{attn}.{j}", here) if i in attends else {}
        found |= conv(f"decoder.{up}.{number}.upsample.conv", here, here, 3) if i else {}
    return found | norm("decoder.norm_out", here) | conv("decoder.conv_out", 3, here, 3)


DIFFUSERS = (  # latent diffusion's names, in diffusers' words
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.(down|up)\.(\d+)\.attn\.", r".\1_blocks.\2.attentions."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"nin_shortcut", "conv_shortcut"),
    (r"\.norm_out\.", ".conv_norm_out."),
)
LAYERS = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLD_LAYERS = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}


def by_diffusers(tensors, levels, layers=LAYERS):
    """The same arrays by diffusers' names: decoders from the coarsest, attention's layers as matrices."""
    return dict(renamed(name, array, levels, layers) for name, array in tensors.items())


def renamed(name, array, levels, layers):
    for pattern, theirs in DIFFUSERS:
        name = re.sub(pattern, theirs, name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{levels - 1 - int(found[1])}", name)
    if found := re.search(r"(attentions\.\d+\.)(q|k|v|proj_out)(\.(?:weight|bias))$", name):
        name = name[: found.start()] + found[1] + layers[found[2]] + found[3]
        array = array[:, :, 0, 0] if array.ndim == 4 else array
    return name, array
