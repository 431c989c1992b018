"""What PyTorch saved is what is read, bit for bit, in both of its formats.

tests/interop/saved/*.pt were made by make.py beside them; what is in them is said there, and here again in numpy.
"""

import io
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from interop import torch_bytes as tb

from vqvae_jax.interop.torch_files import read_torch
from vqvae_jax.types import UserError

SAVED = Path(__file__).parent / "saved"
BASE = np.arange(12, dtype=np.float32)
NUMBERS = np.arange(-3, 3).reshape(2, 3)
STATE = {
    **{name: NUMBERS.astype(name) for name in ("float64", "float16", "int8", "int16", "int32", "int64")},
    "bfloat16": NUMBERS.astype(np.float32),
    "uint8": np.array([0, 7, 255], np.uint8),
    "bool": np.array([True, False, True]),
    "base": BASE,
    "tied.weight": BASE,
    "transposed": BASE.reshape(3, 4).T,
    "slice": BASE[1::2],
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.full(2, 0.5, np.float32),
}
WEIGHTS = {"w": np.arange(4, dtype=np.float32)}
ONE = tb.program(tb.dictionary({"w": tb.tensor()}))


def same(read, expected):
    assert list(read) == list(expected)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def read_bytes(tmp_path, content, key=None):
    (tmp_path / "file.pt").write_bytes(content)
    return read_torch(tmp_path / "file.pt", key)


@pytest.mark.parametrize("container", ["zip", "old"])
def test_every_kind_of_tensor(container):
    read = read_torch(SAVED / f"state_{container}.pt")
    same({name: read[name] for name in STATE}, STATE)
    assert set(read) == set(STATE) and "torch" not in sys.modules


@pytest.mark.parametrize("container", ["zip", "old"])
def test_the_weights_of_a_training_without_their_wrappers(container):
    expected = {"weight": np.array([[1, 2]], np.float32), "bias": np.array([3], np.float32)}
    same(read_torch(SAVED / f"training_{container}.pt"), expected)
    same(read_torch(SAVED / f"training_{container}.pt", key="model"), expected)


def test_shared_storages_take_memory_once():
    read = read_torch(SAVED / "state_zip.pt")
    assert np.shares_memory(read["base"], read["tied.weight"]) and np.shares_memory(read["base"], read["transposed"])
    with pytest.raises(ValueError, match="read-only"):
        read["base"][0] = 1


def test_several_state_dicts_want_a_key():
    with pytest.raises(UserError, match=r"--key=NAME: model \(1 tensors\), ema.average \(1 tensors\)"):
        read_torch(SAVED / "two_zip.pt")
    same(read_torch(SAVED / "two_zip.pt", key="ema"), {"w": np.ones(2, np.float32)})
    same(read_torch(SAVED / "two_zip.pt", key="ema.average"), {"w": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"no state dict 'modle'; did you mean 'model'\? It has: model, ema.average"):
        read_torch(SAVED / "two_zip.pt", key="modle")


@pytest.mark.parametrize("name, what", [("quantized", "quantized"), ("sparse", "sparse"), ("complex", "complex")])
def test_other_tensors_are_refused_by_name(name, what):
    with pytest.raises(UserError, match=f"{name}_zip.pt holds {what}"):
        read_torch(SAVED / f"{name}_zip.pt")


@pytest.mark.parametrize("kind, what", [("neg", "a negated"), ("conj", "a conjugated")])
def test_the_sign_of_a_view_is_not_lost(tmp_path, kind, what):
    """As torch.save writes torch._neg_view(w): the elements of w, and beside them that they are to be negated."""
    elements = {"0": WEIGHTS["w"].tobytes()}

    def saved(metadata):
        weight = tb.tensor(metadata=metadata)
        parameter = tb.call("torch._utils", "_rebuild_parameter", weight, tb.plain(True), tb.plain(None))
        return tb.zipped(tb.program(tb.dictionary({"w": parameter})), elements)

    with pytest.raises(UserError, match=rf"file.pt holds {what} view; save .resolve_{kind}\(\)$"):
        read_bytes(tmp_path, saved({kind: True}))
    for metadata in ({kind: False}, {}, {"backend": 1}):
        same(read_bytes(tmp_path, saved(metadata)), WEIGHTS)


def test_a_whole_module_is_refused():
    with pytest.raises(
        UserError, match=r"no dictionary of tensors, but torch.nn.modules.linear.Linear; save model.state_dict"
    ):
        read_torch(SAVED / "module_zip.pt")


def test_by_hand(tmp_path):
    elements = WEIGHTS["w"].tobytes()
    same(read_bytes(tmp_path, tb.zipped(ONE, {"0": elements})), WEIGHTS)
    same(read_bytes(tmp_path, tb.zipped(ONE, {"0": elements}, order=None)), WEIGHTS)
    same(read_bytes(tmp_path, tb.old(ONE, {"0": (elements, 4)})), WEIGHTS)
    odd = tb.program(tb.dictionary({"a.w": tb.tensor(shape=(2,), strides=(2,), offset=1), "b": tb.plain(None)}))
    same(read_bytes(tmp_path, tb.zipped(odd, {"0": elements})), {"a.w": WEIGHTS["w"][1::2]})


def test_bfloat16_is_rounded_nowhere(tmp_path):
    floats = np.array([1.5, -0.0, np.inf, 3.0e38], np.float32)
    bits = (floats.view(np.uint32) >> 16).astype("<u2")
    pickled = tb.program(tb.dictionary({"w": tb.tensor(kind="BFloat16Storage")}))
    read = read_bytes(tmp_path, tb.zipped(pickled, {"0": bits.tobytes()}))
    assert read["w"].view(np.uint32).tolist() == (bits.astype(np.uint32) << 16).tolist()


def test_what_older_versions_wrote(tmp_path):
    """Storages on a GPU, tensors that are views of storages, parameters with attributes."""
    bare = tb.plain(0) + tb.plain((2,)) + tb.plain((1,))
    view = tb.storage("0", 4, module="torch.cuda", view=(("1", 1, 2),))
    tensor = tb.call("torch._utils", "_rebuild_tensor", view, bare)
    hooks = tb.call("collections", "OrderedDict")
    parts = (tb.tensor(), tb.plain(True), hooks, tb.plain({"tag": 1}))
    parameter = tb.call("torch._utils", "_rebuild_parameter_with_state", *parts)
    pickled = tb.program(tb.dictionary({"view": tensor, "parameter": parameter}))
    read = read_bytes(tmp_path, tb.old(pickled, {"0": (WEIGHTS["w"].tobytes(), 4)}))
    same(read, {"view": WEIGHTS["w"][1:3], "parameter": WEIGHTS["w"]})
    with pytest.raises(UserError, match="a view lies outside"):
        outside = tb.call("torch._utils", "_rebuild_tensor", tb.storage("0", 4, view=(("1", 3, 2),)), bare)
        read_bytes(tmp_path, tb.old(tb.program(tb.dictionary({"w": outside})), {"0": (bytes(16), 4)}))


@pytest.mark.parametrize("kind", ["zip", "old"])
def test_big_endian_is_refused(tmp_path, kind):
    content = tb.zipped(ONE, {"0": bytes(16)}, b"big") if kind == "zip" else tb.old(ONE, {"0": (bytes(16), 4)}, False)
    with pytest.raises(UserError, match="big-endian"):
        read_bytes(tmp_path, content)


@pytest.mark.parametrize("tree, expected", [
    ({"net": {"w": 4}, "loss": 0}, ["w"]),  # a scalar beside the weights
    ({"net": {"w": 4, "v": 4}, "rng": 4}, ["w", "v"]),  # one tensor around more
    ({"a.w": 4, "b.w": 4, "a._extra_state": {"x": 4}}, ["a.w", "b.w"]),  # one inside of more
    ({"state": {"generator": {"state_dict": {"module.w": 4}}}}, ["w"]),
    ({"module.w": 4, "other": 4}, ["module.w", "other"]),  # not all share it
    ({"module._orig_mod.module.w": 4}, ["w"]),
    ({"count": 0}, ["count"]),  # nothing but scalars
])  # fmt: skip
def test_which_dictionary_is_meant(tmp_path, tree, expected):
    """4: a tensor [4]; 0: a scalar."""
    assert list(read_bytes(tmp_path, tb.zipped(tb.program(grown(tree)), {"0": bytes(16)}))) == expected


def grown(tree):
    if isinstance(tree, dict):
        return tb.dictionary({name: grown(one) for name, one in tree.items()})
    return tb.tensor() if tree else tb.tensor(shape=(), strides=())


@pytest.mark.parametrize("body", [tb.plain(3), tb.plain({"epoch": 1}), tb.tensor(), b"]" + tb.tensor() + b"a"])
def test_a_file_without_a_state_dict(tmp_path, body):
    with pytest.raises(UserError, match=r"holds no (dictionary of )?tensors; save model.state_dict\(\)"):
        read_bytes(tmp_path, tb.zipped(tb.program(body), {"0": bytes(16)}))


def test_torchscript_is_told_from_weights(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript"):
        read_bytes(tmp_path, stream.getvalue())


def test_a_large_file_is_read_at_once(tmp_path):
    """16 MB; 100 MB take 0.1 s where nothing else runs."""
    count = 4 << 20
    pickled = tb.program(tb.dictionary({"w": tb.tensor("0", count, (count,))}))
    content = tb.zipped(pickled, {"0": np.arange(count, dtype=np.float32).tobytes()})
    start = time.perf_counter()
    assert read_bytes(tmp_path, content)["w"][-1] == count - 1
    assert time.perf_counter() - start < 2
