"""Names and shapes of the published files of VQ-GAN's kind, written from their description alone."""

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


def published(width, factors, codes, code_dim, llamagen=False, z=256, blocks=2):
    """Name → shape of all tensors of the autoencoder; attention in the coarsest level."""
    level, block, attn = ("conv_blocks", "res", "attn") if llamagen else ("{}", "block", "attn")
    down, up, last = level.format("down"), level.format("up"), len(factors) - 1
    found, here = conv("encoder.conv_in", width, 3, 3), width
    for i, factor in enumerate(factors):
        for j in range(blocks):
            found |= residual(f"encoder.{down}.{i}.{block}.{j}", here, width * factor)
            here = width * factor
            found |= attention(f"encoder.{down}.{i}.{attn}.{j}", here) if i == last else {}
        found |= conv(f"encoder.{down}.{i}.downsample.conv", here, here, 3) if i < last else {}
    found |= middle("encoder", here, llamagen) | norm("encoder.norm_out", here) | conv("encoder.conv_out", z, here, 3)
    found |= conv("quant_conv", code_dim, z, 1) | {"quantize.embedding.weight": (codes, code_dim)}
    found |= conv("post_quant_conv", z, code_dim, 1) | conv("decoder.conv_in", here, z, 3)
    found |= middle("decoder", here, llamagen)
    for i in range(last, -1, -1):
        number = last - i if llamagen else i
        for j in range(blocks + 1):
            found |= residual(f"decoder.{up}.{number}.{block}.{j}", here, width * factors[i])
            here = width * factors[i]
            found |= attention(f"decoder.{up}.{number}.{attn}.{j}", here) if i == last else {}
        found |= conv(f"decoder.{up}.{number}.upsample.conv", here, here, 3) if i else {}
    return found | norm("decoder.norm_out", here) | conv("decoder.conv_out", 3, here, 3)
