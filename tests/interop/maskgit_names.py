"""Names and shapes of MaskGIT's published files, written from their description alone."""


def norm(name, channels):
    return {f"{name}/{part}": (channels,) for part in ("bias", "scale")}


def residual(name, into, out):
    found = norm(f"{name}/GroupNorm_0", into) | {f"{name}/Conv_0/kernel": (3, 3, into, out)}
    found |= norm(f"{name}/GroupNorm_1", out) | {f"{name}/Conv_1/kernel": (3, 3, out, out)}
    return found if into == out else found | {f"{name}/Conv_2/kernel": (1, 1, out, out)}


def dense(name, *shape, out=1):
    """The last `out` axes are of the output."""
    return {f"{name}/kernel": shape, f"{name}/bias": shape[len(shape) - out :]}


def tokenizer(filters=128, multipliers=(1, 1, 2, 2, 4), blocks=2, codes=1024, code_dim=256):
    """Name → shape."""
    widths = [filters * one for one in multipliers]
    found, here, number = {"encoder/Conv_0/kernel": (3, 3, 3, filters)}, filters, 0
    for width in (*widths, widths[-1]):
        for _ in range(blocks):
            found |= residual(f"encoder/ResBlock_{number}", here, width)
            here, number = width, number + 1
    found |= norm("encoder/GroupNorm_0", here) | dense("encoder/Conv_1", 1, 1, here, code_dim)
    found |= {"quantizer/codebook": (codes, code_dim)} | dense("decoder/Conv_0", 3, 3, code_dim, here)
    number, convs = 0, 1
    for level in (len(widths), *reversed(range(len(widths)))):
        width = widths[min(level, len(widths) - 1)]
        for _ in range(blocks):
            found |= residual(f"decoder/ResBlock_{number}", here, width)
            here, number = width, number + 1
        if 0 < level < len(widths):
            found |= dense(f"decoder/Conv_{convs}", 3, 3, here, here)
            convs += 1
    return found | norm("decoder/GroupNorm_0", here) | dense(f"decoder/Conv_{convs}", 3, 3, here, 3)


def transformer(words=2025, width=768, layers=24, heads=16, mlp=3072, places=257):
    """Name → shape."""
    size = width // heads
    found = {"Embed_0/word_embeddings/embedding": (words, width)}
    found |= {"Embed_0/position_embeddings/embedding": (places, width)} | norm("Embed_0/embeddings_ln", width)
    for number in range(layers):
        attention, inside = (f"TransformerLayer_{number}/{part}" for part in ("Attention_0", "Mlp_0"))
        for one in ("query", "key", "value"):
            found |= dense(f"{attention}/self_attention/{one}", width, heads, size, out=2)
        found |= dense(f"{attention}/self_attention/out", heads, size, width)
        found |= norm(f"{attention}/attention_output_ln", width) | norm(f"{inside}/layer_output_ln", width)
        found |= dense(f"{inside}/intermediate_output", width, mlp) | dense(f"{inside}/layer_output", mlp, width)
    found |= dense("MlmLayer_0/mlm_dense", width, width) | norm("MlmLayer_0/mlm_ln", width)
    return found | {"MlmLayer_0/mlm_bias/bias": (words,)}
