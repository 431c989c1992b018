"""VQ-GAN's autoencoder, beyond the contract: MaskGIT's network as recorded, what its fields change, what is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import drawn, quick

from vqvae_jax.autoencoders import VQGAN
from vqvae_jax.quantizers import EMAQuantizer, FiniteScalarQuantizer, KLBottleneck, ResidualQuantizer, VectorQuantizer
from vqvae_jax.types import UserError

MASKGIT = Path(__file__).parents[1] / "reference" / "maskgit_tokenizer.npz"  # google-research/maskgit 1db2359, by Flax
BRANCH = {
    "decoder_blocks": 1,
    "middle_blocks": 1,
    "middle_attention": False,
    "attention": (),
    "down": "average",
    "shortcut": "branch",
    "biases": False,
    "code_kernel": 0,
}
BLOCK = {"GroupNorm_0": "norm1", "Conv_0": "conv1", "GroupNorm_1": "norm2", "Conv_1": "conv2", "Conv_2": "shortcut"}


def of_maskgit(params):
    """Its parameters, numbered in the order of use, as ours: two levels of one block each."""
    encoder = {"Conv_0": "conv_in", "GroupNorm_0": "norm_out", "Conv_1": "conv_out"}
    encoder |= {"ResBlock_0": "down0_block0", "ResBlock_1": "down1_block0", "ResBlock_2": "middle_block0"}
    decoder = {"Conv_0": "conv_in", "Conv_1": "up1_double", "GroupNorm_0": "norm_out", "Conv_2": "conv_out"}
    decoder |= {"ResBlock_0": "middle_block0", "ResBlock_1": "up1_block0", "ResBlock_2": "up0_block0"}
    found = {"encoder": {}, "decoder": {}}
    for name, array in params.items():
        part, layer, *inside = name.split("/")
        here = found[part].setdefault({"encoder": encoder, "decoder": decoder}[part][layer], {})
        for step in inside[:-1]:
            here = here.setdefault(BLOCK[step], {})
        here[inside[-1]] = array
    return found


def test_maskgit_s_tokenizer_as_recorded():
    with np.load(MASKGIT) as file:
        recorded = dict(file)
    params = {name[6:]: array for name, array in recorded.items() if name.startswith("param/")}
    quantizer = VectorQuantizer(64, 16)
    books = {"codes": quantizer.init(jax.random.key(0)).replace(codes=params.pop("quantizer/codebook"))}
    model = VQGAN((quantizer,), width=32, factors=(1, 2), blocks=1, **BRANCH)
    variables, images = {"params": of_maskgit(params)}, recorded["input/image"]
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, books)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)  # nothing is left over

    def compute(variables):
        encoded = model.apply(variables, images, method=lambda module, x: module.encoder(x))
        return encoded, model.apply(variables, images, books)

    encoded, out = quick(compute)(variables)
    near = lambda got, name: np.testing.assert_allclose(  # noqa: E731
        got, recorded[name], rtol=0, atol=2e-5 * np.abs(recorded[name]).max()
    )
    near(encoded, "output/encoder")
    np.testing.assert_array_equal(out.tokens[0], recorded["output/indices"])
    near(quantizer.lookup(books["codes"], out.tokens), "output/z_q")
    near(out.images, "output/reconstruction")


def gradient(model, params, books, images):
    total = lambda params: sum(model.apply(params, images, books).losses.values())  # noqa: E731
    return quick(jax.value_and_grad(total))(params)


def test_recomputing_changes_nothing_but_memory():
    model = VQGAN((VectorQuantizer(8, 4),), width=4, factors=(1,), z=4, blocks=1, decoder_blocks=1, middle_blocks=0)
    images = np.random.default_rng(0).random((1, 3, 3, 3)).astype(np.float32)
    books = model.init_codebooks(jax.random.key(0))
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), images, books))
    again = model.clone(remat=True)
    shapes = lambda model: jax.eval_shape(model.init, jax.random.key(0), images, books)  # noqa: E731
    assert shapes(again) == shapes(model)
    want, got = (gradient(one, params, books, images) for one in (model, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
    assert "remat" in str(jax.make_jaxpr(lambda p: again.apply(p, images, books).images)(params))


@pytest.mark.parametrize(
    "quantizer",
    [EMAQuantizer(8, 3), FiniteScalarQuantizer((3, 3)), KLBottleneck(2), ResidualQuantizer(VectorQuantizer(8, 3), 2)],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_any_quantizer(quantizer):
    """Sizes are its own; one that wants means and log-variances gets twice z from the encoder."""
    model = VQGAN((quantizer,), width=4, factors=(1, 1), blocks=1, z=6, attention=(), middle_blocks=0)
    books = model.init_codebooks(jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 6, 4, 3), jnp.float32)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images, books)
    assert out.images.shape == images.shape and {one.shape[:3] for one in out.tokens} == {(2, 3, 2)}
    assert len(out.tokens) == len(quantizer.vocab_sizes)
    params = variables["params"]
    assert params["to_code"]["kernel"].shape[2:] == (12 if quantizer == KLBottleneck(2) else 6, quantizer.input_dim)
    assert params["from_code"]["kernel"].shape[2:] == (quantizer.output_dim, 6)
    decoded = jax.eval_shape(lambda v, t: model.apply(v, t, books, method="decode"), variables, out.tokens)
    assert decoded.shape == images.shape


def test_attention_stands_where_it_is_asked_for():
    def layers(**fields):
        model = VQGAN((VectorQuantizer(8, 4),), width=4, factors=(1, 1, 1), blocks=2, z=4, **fields)
        images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
        books = model.init_codebooks(jax.random.key(0))
        params = jax.eval_shape(model.init, jax.random.key(0), images, books)["params"]
        return {f"{part}.{name}" for part in ("encoder", "decoder") for name in params[part] if "attention" in name}

    middle = {"encoder.middle_attention", "decoder.middle_attention"}
    coarsest = {*(f"encoder.down2_attention{i}" for i in (0, 1)), *(f"decoder.up2_attention{i}" for i in (0, 1, 2))}
    assert layers() == layers(attention=(2,)) == middle | coarsest
    assert layers(attention=(), middle_attention=False) == set()
    assert layers(attention=(0,), middle_blocks=0, decoder_blocks=1) == {
        "encoder.down0_attention0", "encoder.down0_attention1", "decoder.up0_attention0"}  # fmt: skip


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"factors": ()}, "factors wants 1 to 20 widths"),
        ({"factors": (1, 0)}, "factors wants 1 to 20 widths"),
        ({"factors": (1, 2), "attention": (2,)}, r"attention=\[2\]: there are levels 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    model = VQGAN((VectorQuantizer(8, 4),), width=4, **fields)
    assert isinstance(VQGAN.stride(fields), int)
    with pytest.raises(UserError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), {})
