"""MaskGIT's weights from outside: names and sizes as published (without memory), Flax's files, what is no such file."""

import math
from pathlib import Path
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from interop import maskgit_names as names
from small_models import quick

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.interop import files, importing, maskgit
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.priors import MaskGITPrior
from vqvae_jax.types import Condition, Level, UserError

RECORDED = Path(__file__).parents[1] / "reference"
SMALL = names.tokenizer(32, (1, 2), 1, 12, 8)
PRIOR = names.transformer(12 + 3 + 1, 8, 2, 2, 16, 1 + 16)


def without_memory(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def random(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape, scale=0.2).astype(np.float32) for name, shape in shapes.items()}


def tree(tensors):
    return flax.traverse_util.unflatten_dict(tensors, sep="/")


def bring(path, workdir, *more):
    return main(["import", f"--checkpoint={path}", f"--workdir={workdir}", *more])


def test_the_published_tokenizer_is_recognised_at_full_size():
    shapes = names.tokenizer()
    assert len(shapes) == 168 and sum(map(math.prod, shapes.values())) == 54_515_587
    match = recognise(without_memory(shapes), "file", 2)
    whole = {"name": "vqgan", "quantizers": {}, **PRESETS["maskgit"]}
    assert match.module == parts.build_autoencoder(
        {"autoencoder": whole, "train": {"dtype": "float32"}}, {"channels": 3}
    )
    assert match.facts["image_size"] == 256 and match.facts["range"] == (0.0, 1.0)


@pytest.mark.parametrize("side, steps", [(16, 8), (32, 12)])
def test_the_published_transformers_are_recognised_at_full_size(side, steps):
    shapes = names.transformer(places=1 + side**2)
    numbers = sum(map(math.prod, shapes.values()))
    assert numbers == 172_457_193 + (side**2 - 256) * 768
    match = recognise(without_memory(shapes), "file", 2)
    assert match.module == MaskGITPrior(
        (Level("codes", (side, side), 1024),), num_labels=1000, width=768, layers=24, heads=16, dropout=0.1,
        norm="post", local=False, smoothing=0.1, label_condition=True, label_dropout=0.0, sample_steps=steps,
    )  # fmt: skip
    assert sum(leaf.size for leaf in jax.tree.leaves(match.like.params)) == numbers
    assert match.facts["image_size"] == 16 * side


@pytest.mark.parametrize(
    "words, places, codes, labels",
    [(2025, 257, 1024, 1000), (17385, 257, 16384, 1000), (1025, 256, 1024, 0), (4, 5, 2, 1), (2, 1, 1, 0)],
)
def test_which_words_are_codes(words, places, codes, labels):
    found = recognise(without_memory(names.transformer(words, 4, 1, 2, 8, places)), "file", 2).facts
    assert (found["vocab_size"], found["num_labels"]) == (codes, labels)


def test_the_recorded_tokenizer(tmp_path):
    assert bring(RECORDED / "maskgit_tokenizer.npz", tmp_path / "run", "--image_size=16") == 0
    module, model = vqvae_jax.load(tmp_path / "run").autoencoder
    with np.load(RECORDED / "maskgit_tokenizer.npz") as file:
        images, indices, back = (file[name] for name in ("input/image", "output/indices", "output/reconstruction"))
    out = quick(lambda p, books: module.apply({"params": p}, images, books))(model.params, model.codebooks)
    np.testing.assert_array_equal(out.tokens[0], indices)
    np.testing.assert_allclose(out.images, back, rtol=0, atol=1e-5 * np.abs(back).max())


def test_the_recorded_transformer_alone(tmp_path, capsys):
    """Of its 40 codes and 5 labels 32 and 13 are assumed: other names for the same rows."""
    assert bring(RECORDED / "maskgit_transformer.npz", tmp_path / "run") == 0
    assert "of 46 words 32 are codes and 13 labels; weights do not show it" in capsys.readouterr().out
    trained = vqvae_jax.load(tmp_path / "run")
    prior, model = trained.parts.prior("codes"), trained.parts.load(tmp_path / "run", "codes")
    with np.load(RECORDED / "maskgit_transformer.npz") as file:
        tokens, wanted = file["input/tokens"], file["output/logits"][:, 1:, :32]
    assert prior.mask == 45
    logits = quick(lambda p: prior.apply({"params": p}, tokens[:, 1:], Condition(tokens[:, 0] - 32), method="logits"))
    np.testing.assert_allclose(logits(model.params), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_both_files_become_one_workdir_and_files_again(tmp_path, capsys):
    tensors = {"tokenizer": random(SMALL), "maskgit": random(PRIOR, 1)}
    for name, one in tensors.items():
        (tmp_path / f"{name}_imagenet256_checkpoint").write_bytes(flax.serialization.to_bytes({"params": tree(one)}))
    run = tmp_path / "run"
    assert bring(tmp_path / "tokenizer_imagenet256_checkpoint", run, "--image_size=8") == 0
    assert bring(tmp_path / "maskgit_imagenet256_checkpoint", run) == 0
    said = capsys.readouterr().out
    assert "4x4 of 12 codes, 3 labels" in said and "are codes" not in said
    section = configs.load(run)["priors"]["codes"]
    assert (section["norm"], section["label_dropout"], section["optimizer"]["b2"]) == ("post", 0.0, 0.96)
    for stage, name in (("autoencoder", "tokenizer"), ("codes", "maskgit")):
        for suffix in ("msgpack", "safetensors", "npz"):
            output = tmp_path / f"{name}.{suffix}"
            assert main(["export", f"--workdir={run}", f"--stage={stage}", f"--output={output}"]) == 0
            back = files.read(output)
            assert set(back) == set(tensors[name])
            for one, array in tensors[name].items():
                np.testing.assert_array_equal(back[one], array, err_msg=one)
        theirs = flax.serialization.msgpack_restore((tmp_path / f"{name}.msgpack").read_bytes())
        assert jax.tree.structure(theirs) == jax.tree.structure({"params": tree(tensors[name])})
        again = tmp_path / f"{name} again"
        assert bring(tmp_path / f"{name}.safetensors", again) == 0  # says itself what it is
    said = capsys.readouterr().out
    assert said.count("from the file itself") == 4  # a .msgpack has no room for words
    assert "float32 [N, 8, 8, 3]" in said and "int32 [N, 17], 12 + label, then tokens, 15 in place of" in said
    drawn = vqvae_jax.load(run).sample(2, label=1)
    assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.uint8


WRAPPED = {
    "bare": lambda params: params,
    "a TrainState": lambda params: {"step": 3, "params": params, "opt_state": {"0": {"mu": {"params": params}}}},
    "variables in it": lambda params: {"step": 3, "params": {"params": params}, "opt_state": {}},
    "an old optimizer": lambda params: {"optimizer": {"target": {"params": params}, "state": {"step": 3}}},
    "with statistics": lambda params: {"params": params, "batch_stats": {"mean": np.ones(3)}, "note": ["a", None, 1.5]},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_a_training_writes(tmp_path, name):
    tensors = random({"encoder/Conv_0/kernel": (3, 3, 3, 4), "n": ()})
    (tmp_path / "checkpoint_3").write_bytes(flax.serialization.msgpack_serialize(WRAPPED[name](tree(tensors))))
    back = files.read(tmp_path / "checkpoint_3")
    assert set(back) == set(tensors)
    for one, array in tensors.items():
        np.testing.assert_array_equal(back[one], array)


def test_another_branch_by_its_key(tmp_path, capsys):
    content = {"params": {"w": np.zeros(2)}, "ema": {"params": {"w": np.ones(2)}}, "step": 1}
    (tmp_path / "w").write_bytes(flax.serialization.msgpack_serialize(content))
    assert files.read(tmp_path / "w", "ema")["w"][0] == files.read(tmp_path / "w", "ema.params")["w"][0] == 1
    for key in ("emma", "ema/w", "step/w"):
        with pytest.raises(UserError, match=f"--key: {tmp_path / 'w'} has no"):
            files.read(tmp_path / "w", key)


def test_all_kinds_of_numbers(tmp_path, monkeypatch):
    kinds = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")
    arrays = {kind: np.array([[0, 1], [1, 2]]).astype(kind) for kind in kinds}
    content = arrays | {"bfloat16": jnp.array([1.5, -2.0], jnp.bfloat16), "scalar": np.float32(3)}
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 8)  # bytes: larger ones are written in parts
    (tmp_path / "w").write_bytes(flax.serialization.msgpack_serialize(content))
    back = files.read(tmp_path / "w")
    for kind, array in arrays.items():
        assert back[kind].dtype == array.dtype
        np.testing.assert_array_equal(back[kind], array)
    assert back["bfloat16"].tolist() == [1.5, -2.0] and back["bfloat16"].dtype == np.float32 and back["scalar"] == 3


def test_dots_between_names(tmp_path):
    """As trees are flattened for a .safetensors."""
    for name, shapes in (("tokenizer", SMALL), ("maskgit", PRIOR)):
        dotted = {f"params.{one.replace('/', '.')}": array for one, array in random(shapes).items()}
        files.write(tmp_path / f"{name}.safetensors", dotted)
        assert (
            bring(tmp_path / f"{name}.safetensors", tmp_path / "run", *["--image_size=8"][: name == "tokenizer"]) == 0
        )


@pytest.mark.parametrize(
    "shapes, message",
    [
        (names.transformer(16, 8, 1, 2, 16, 9 + 1), "is of a map of 3x3, .*run makes 4x4"),
        (names.transformer(13, 8, 1, 2, 16, 16 + 1), "has 13 words; the .* wants 12 codes"),
        (names.transformer(16, 8, 1, 2, 16, 16), "has 16 words; the .* wants 12 codes, a mask$"),
        (names.transformer(16, 8, 1, 2, 16, 12), "has 12 places: MaskGIT's transformer wants those of a square map"),
        (names.transformer(3, 8, 1, 2, 16, 17), "has 3 words: too few for codes and a mask, and labels"),
        ({**PRIOR, "MlmLayer_0/mlm_bias/bias": (15,)}, r"mlm_bias/bias is \[15\], not \[16\]"),
        ({**PRIOR, "Embed_0/word_embeddings/embedding": (16,)}, "embedding is .16., not of 2 axes"),
        ({**PRIOR, "embedding_hidden_mapping/bias": (8,)}, "left over: embedding_hidden_mapping/bias"),
        ({name: shape for name, shape in PRIOR.items() if "/query/kernel" not in name}, "missing: .*query/kernel"),
        (names.tokenizer(32, (1, 2), 1, 12, 8), "holds something already"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path, capsys, shapes, message):
    files.write(tmp_path / "a.npz", random(SMALL))
    assert bring(tmp_path / "a.npz", tmp_path / "run", "--image_size=8") == 0
    files.write(tmp_path / "b.npz", random(shapes))
    capsys.readouterr()
    assert bring(tmp_path / "b.npz", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(said.strip())


def test_a_prior_alone_has_one_size(tmp_path, capsys):
    files.write(tmp_path / "b.npz", random(PRIOR))
    assert bring(tmp_path / "b.npz", tmp_path / "run", "--image_size=8") == 2
    assert "is of images of 64 pixels with the published tokenizer" in capsys.readouterr().err
    assert bring(tmp_path / "b.npz", tmp_path / "run", "--image_size=64") == 0


def test_a_workdir_whose_levels_are_numbers_is_told_the_codes_of_the_file(monkeypatch, tmp_path):
    """And not that it wants none."""
    match = recognise(random(PRIOR), "x", 2)
    for module, name in ((importing.configs, "load"), (importing.facts_file, "read")):
        monkeypatch.setattr(module, name, lambda workdir: {})
    monkeypatch.setattr(importing, "Parts", lambda *_: SimpleNamespace(levels=[Level("codes", (4, 4), None, 3)]))
    assert importing.of_the_codes(match, tmp_path) is match


def test_what_the_authors_have_no_name_for_keeps_ours():
    prior = MaskGITPrior((Level("b", (2, 2), 4),), (Level("a", (1, 1), 3),), width=4, layers=1, heads=2)
    places = maskgit.transformer_places(prior, parts.abstract_prior(prior))
    ours = {name for name in places if not name.startswith(("TransformerLayer_0/", "MlmLayer_0/", "Embed_0/"))}
    assert ours == {"end_norm/scale", "end_norm/bias", "embed_above_0/embedding"}
    assert "TransformerLayer_0/taps" in places and len(places) == len(jax.tree.leaves(parts.abstract_prior(prior)))


GOOD = flax.serialization.msgpack_serialize({"params": {"w": np.arange(300, dtype=np.float32)}})


def array(shape, dtype, elements, kind=1):
    """A file of one array."""
    content = msgpack.ExtType(kind, msgpack.packb((shape, dtype, elements)))
    return msgpack.packb({"params": {"w": content}})


def nested(depth):
    return b"\x81\xa1a" * depth + b"\xc0"


BAD = {
    "no arrays": (msgpack.packb({"params": {"w": 1}}), "holds no arrays"),
    "objects": (array((1,), "O", bytes(8)), "an array is O, which is not read"),
    "records": (array((1,), "f4,f4", bytes(8)), "an array is f4,f4, which is not read"),
    "dates": (array((1,), "datetime64", bytes(8)), "which is not read"),
    "control characters": (array((1,), "\x1b[2J\n", bytes(8)), r"an array is \\x1b\[2J\\n, which is not read"),
    "enormous": (array((1 << 40, 1 << 40), "float32", bytes(8)), "another size than its shape"),
    "beyond 64 bits": (array(((1 << 63) - 1,) * 9, "float32", bytes(8)), "another size than its shape"),
    "negative": (array((-2, -1), "float32", bytes(8)), "a shape that is none"),
    "a shape of words": (array(("2",), "float32", bytes(8)), "a shape that is none"),
    "a shape that is a number": (array(2, "float32", bytes(8)), "cannot be read"),
    "no bytes": (array((2,), "float32", [0, 0]), "cannot be read"),
    "too short": (array((3,), "float32", bytes(8)), "another size than its shape"),
    "no triple": (msgpack.packb({"w": msgpack.ExtType(1, b"\x91\x01")}), "cannot be read"),
    "unknown kinds": (array((1,), "float32", bytes(4), kind=77), "holds no arrays"),
    "complex": (msgpack.packb({"w": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}), "holds no arrays"),
    "deep": (nested(100_000), "cannot be read"),
    "deep enough": (nested(900), "holds no arrays|cannot be read"),
    "a long list": (b"\x81\xa1a\xdd\xff\xff\xff\xff" + bytes(100), "cannot be read"),
    "a large dict": (b"\xdf\xff\xff\xff\xff\xa1a" + bytes(100), "cannot be read"),
    "names that are numbers": (msgpack.packb({"a": {1: 2}}), "cannot be read"),
    "parts that are missing": (
        msgpack.packb({"w": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {}}}), "cannot be read"),
    "parts that are none": (
        msgpack.packb({"w": {"__msgpack_chunked_array__": True, "shape": 4, "chunks": {"0": 1}}}), "cannot be read"),
    "twice": (GOOD + GOOD, "cannot be read"),
    "empty": (b"", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_good_file_is_one_line(tmp_path, capsys, name):
    content, message = BAD[name]
    (tmp_path / "w.msgpack").write_bytes(content)
    assert bring(tmp_path / "w.msgpack", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.strip().isprintable() and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=message):
        raise UserError(said.strip())


def test_cut_off_or_changed_anywhere(tmp_path):
    """Each start of a file is refused; with one byte changed it is refused or read, and nothing else happens."""
    for end in range(1, len(GOOD), 13):
        (tmp_path / "w").write_bytes(GOOD[:end])
        with pytest.raises(UserError, match=str(tmp_path / "w")):
            files.read(tmp_path / "w")
    draw = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(GOOD)
        changed[int(draw.integers(40))] = int(draw.integers(256))
        (tmp_path / "w").write_bytes(bytes(changed))
        try:
            files.read(tmp_path / "w")
        except UserError as error:
            assert str(error).isprintable()
