"""Names and shapes of the published files of diffusion models, written from their description alone."""


def dense(name, out, into, bias=True):
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def conv(name, out, into, size):
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def dit(width=1152, layers=28, channels=4, patch=2, side=32, labels=1000, variances=True, waves=256):
    """Name → shape of DiT, as released: XL/2 of 256 pixels."""
    found = {"pos_embed": (1, (side // patch) ** 2, width)} | conv("x_embedder.proj", width, channels, patch)
    found |= dense("t_embedder.mlp.0", width, waves) | dense("t_embedder.mlp.2", width, width)
    found |= {"y_embedder.embedding_table.weight": (labels + 1, width)}
    for i in range(layers):
        found |= dense(f"blocks.{i}.attn.qkv", 3 * width, width) | dense(f"blocks.{i}.attn.proj", width, width)
        found |= dense(f"blocks.{i}.mlp.fc1", 4 * width, width) | dense(f"blocks.{i}.mlp.fc2", width, 4 * width)
        found |= dense(f"blocks.{i}.adaLN_modulation.1", 6 * width, width)
    given = channels * (1 + variances)
    found |= dense("final_layer.linear", patch**2 * given, width)
    return found | dense("final_layer.adaLN_modulation.1", 2 * width, width)


def residual(name, into, out, moment):
    found = norm(f"{name}.in_layers.0", into) | conv(f"{name}.in_layers.2", out, into, 3)
    found |= dense(f"{name}.emb_layers.1", out, moment)
    found |= norm(f"{name}.out_layers.0", out) | conv(f"{name}.out_layers.3", out, out, 3)
    return found if into == out else found | conv(f"{name}.skip_connection", out, into, 1)


def transformer(name, width, context):
    found, block = norm(f"{name}.norm", width), f"{name}.transformer_blocks.0"
    for part in ("proj_in", "proj_out"):
        found |= conv(f"{name}.{part}", width, width, 1)
    for part, seen in (("attn1", width), ("attn2", context)):
        found |= dense(f"{block}.{part}.to_q", width, width, False)
        found |= dense(f"{block}.{part}.to_k", width, seen, False) | dense(f"{block}.{part}.to_v", width, seen, False)
        found |= dense(f"{block}.{part}.to_out.0", width, width)
    found |= dense(f"{block}.ff.net.0.proj", 8 * width, width) | dense(f"{block}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        found |= norm(f"{block}.norm{number}", width)
    return found


def unet(width=320, factors=(1, 2, 4, 4), blocks=2, attention=(0, 1, 2), context=768, channels=4):
    """Name → shape of latent diffusion's U-Net, as Stable Diffusion 1 has it."""
    found = dense("time_embed.0", 4 * width, width) | dense("time_embed.2", 4 * width, 4 * width)
    found |= conv("input_blocks.0.0", width, channels, 3)
    here, number, seen = width, 0, [width]
    for level, factor in enumerate(factors):
        for _ in range(blocks):
            number += 1
            found |= residual(f"input_blocks.{number}.0", here, width * factor, 4 * width)
            here = width * factor
            found |= transformer(f"input_blocks.{number}.1", here, context) if level in attention else {}
            seen.append(here)
        if level + 1 < len(factors):
            number += 1
            found |= conv(f"input_blocks.{number}.0.op", here, here, 3)
            seen.append(here)
    found |= residual("middle_block.0", here, here, 4 * width) | transformer("middle_block.1", here, context)
    found |= residual("middle_block.2", here, here, 4 * width)
    number = 0
    for level in reversed(range(len(factors))):
        for i in range(blocks + 1):
            name = f"output_blocks.{number}"
            found |= residual(f"{name}.0", here + seen.pop(), width * factors[level], 4 * width)
            here, number = width * factors[level], number + 1
            found |= transformer(f"{name}.1", here, context) if level in attention else {}
            if i == blocks and level:
                found |= conv(f"{name}.{2 if level in attention else 1}.conv", here, here, 3)
    return found | norm("out.0", width) | conv("out.2", channels, width, 3)


def by_diffusers(name, blocks=2):
    """The same tensor of `unet` as diffusers' file has it: levels in place of running numbers."""
    ends = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    ends |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    layer, _, kind = name.rpartition(".")
    if layer in ends:
        return f"{ends[layer]}.{kind}"
    room, number, *inside = name.split(".")
    if room == "middle_block":
        start = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}[number]
        return ".".join((start, *parts_by_diffusers(inside)))
    level, block = divmod(int(number) - (room == "input_blocks"), blocks + 1)
    start = f"{'down' if room == 'input_blocks' else 'up'}_blocks.{level}"
    place, *inside = inside
    if inside[0] == "op":
        return f"{start}.downsamplers.0.conv.{kind}"
    if inside[0] == "conv":
        return f"{start}.upsamplers.0.conv.{kind}"
    return ".".join((start, ("resnets", "attentions")[int(place)], str(block), *parts_by_diffusers(inside)))


def parts_by_diffusers(inside):
    """Of a residual block; a transformer's are called the same."""
    theirs = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2"}
    theirs |= {"out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
    layer = ".".join(inside[:-1])
    return (theirs.get(layer, layer), inside[-1])


def clip_text(width=768, layers=12, words=49_408, places=77):
    """Name → shape of CLIP's text encoder, as transformers' class saves it."""
    found = {"text_model.embeddings.token_embedding.weight": (words, width)}
    found |= {"text_model.embeddings.position_embedding.weight": (places, width)}
    for i in range(layers):
        layer = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= dense(f"{layer}.self_attn.{part}", width, width)
        found |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        found |= dense(f"{layer}.mlp.fc1", 4 * width, width) | dense(f"{layer}.mlp.fc2", width, 4 * width)
    return found | norm("text_model.final_layer_norm", width)


def stable_diffusion(first_stage, unet, text):
    """The names of one file of three parts."""
    starts = {"first_stage_model": first_stage, "model.diffusion_model": unet, "cond_stage_model.transformer": text}
    return {f"{start}.{name}": one for start, part in starts.items() for name, one in part.items()}
