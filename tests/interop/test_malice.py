"""A file of weights can do nothing but be read: it calls nothing, takes no memory that it does not have."""

import io
import os
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from interop import torch_bytes as tb

from vqvae_jax.interop import pickles
from vqvae_jax.interop.files import read, write
from vqvae_jax.interop.state_dicts import unwrapped
from vqvae_jax.types import UserError

SAVED = Path(__file__).parent / "saved"
LONG = (1 << 32) - 1
SIZE = tb.named("torch", "Size")


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def refused(tmp_path, content, match):
    (tmp_path / "evil.pt").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path / "evil.pt")
    assert str(tmp_path / "evil.pt") in str(error.value) and str(error.value).isprintable()
    assert sorted(tmp_path.iterdir()) == before
    return str(error.value)


CALLS = {
    "posix.system": lambda mark: pickle.dumps({"w": Reduced(os.system, f"touch {mark}")}, 2),
    "os.system": lambda mark: tb.program(tb.call("os", "system", tb.plain(f"touch {mark}"))),
    "builtins.exec": lambda mark: pickle.dumps(Reduced(exec, f"open({mark!r}, 'w')"), 2),
    "builtins.eval": lambda mark: pickle.dumps(Reduced(eval, f"open({mark!r}, 'w')"), 4),
    "builtins.getattr": lambda mark: pickle.dumps(Reduced(getattr, Reduced(__import__, "os"), "system"), 2),
    "builtins.__import__": lambda mark: pickle.dumps([Reduced(__import__, "os")], 2),
    "subprocess.Popen": lambda mark: tb.program(b"(" + tb.plain(["touch", mark]) + b"isubprocess\nPopen\n"),
    "pathlib.Path": lambda mark: tb.program(tb.named("pathlib", "Path") + b")\x81"),
    "functools.partial": lambda mark: tb.program(tb.named("functools", "partial")),
    "torch.storage._load_from_bytes": lambda mark: tb.program(tb.named("torch.storage", "_load_from_bytes")),
    "torch.hub.load": lambda mark: tb.program(tb.named("torch.hub", "load")),
    "numpy.lib.npyio.load": lambda mark: tb.program(tb.named("numpy.lib.npyio", "load")),
    "collections.OrderedDict.fromkeys": lambda mark: b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("container", [tb.zipped, tb.old])
def test_nothing_is_called(tmp_path, name, container):
    mark = tmp_path / "executed"
    message = refused(tmp_path, container(CALLS[name](str(mark))), "holds no")
    assert not mark.exists()
    assert name in message or name == "builtins.__import__"  # which lies in a list


@pytest.mark.parametrize("name", CALLS)
def test_beside_weights_nothing_is_called_either(tmp_path, name):
    """The same calls in a file whose weights are read: they did nothing. In the state dict itself they are refused."""
    mark = tmp_path / "executed"
    call = CALLS[name](str(mark))[2:-1]
    weights = tb.dictionary({"w": tb.tensor()})
    content = tb.zipped(tb.program(tb.dictionary({"callbacks": call, "state_dict": weights})), {"0": bytes(16)})
    (tmp_path / "beside.pt").write_bytes(content)
    assert list(read(tmp_path / "beside.pt")) == ["w"] and not mark.exists()
    if name not in ("builtins.__import__", "posix.system"):  # which lie deeper
        content = tb.zipped(tb.program(tb.dictionary({"w": tb.tensor(), "odd": call})), {"0": bytes(16)})
        assert f"odd, a {name}: not read" in refused(tmp_path, content, "holds beside its tensors")
    assert not mark.exists()


def test_no_name_is_looked_up(tmp_path, monkeypatch):
    """A module that would say that it was imported."""
    (tmp_path / "tattling.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nfunction = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    weights = tb.dictionary({"w": tb.tensor()})
    parts = {"a": tb.call("tattling", "function"), "b": tb.named("tattling", "function"), "state_dict": weights}
    (tmp_path / "file.pt").write_bytes(tb.zipped(tb.program(tb.dictionary(parts)), {"0": bytes(16)}))
    assert list(read(tmp_path / "file.pt")) == ["w"]
    assert "tattling" not in sys.modules and not (tmp_path / "executed").exists()


def test_a_stand_in_keeps_nothing_and_cannot_be_changed(tmp_path):
    """As a class it takes neither state nor items; what is made of it takes all, and holds none."""
    odd = tb.named("os", "system")
    for change in (tb.plain({"named": "x"}) + b"b", tb.plain((None, {"named": "x", "__call__": 1})) + b"b",
                   b"(" + tb.plain("k") + tb.plain(1) + b"u", b"(" + tb.plain(1) + b"e"):  # fmt: skip
        refused(tmp_path, tb.zipped(tb.program(odd + change)), "cannot be read")
    made = odd + b")\x81" + tb.plain({"a": 1}) + b"b(" + tb.plain("k") + tb.plain(1) + b"u(" + tb.plain(1) + b"e"
    stand_in, _ = pickles.load(io.BytesIO(tb.program(made + tb.plain(None) + b"\x85R")), "file")
    assert pickles.stood_for(stand_in) == "os.system" and not hasattr(stand_in, "__dict__")


def test_names_do_not_add_up(tmp_path):
    many = b"".join(tb.named("m", f"f{i}") + b"0" for i in range(5000))
    refused(tmp_path, tb.zipped(tb.program(many + b"}")), "names more than 1000 things")


def test_names_cannot_write_on_the_terminal(tmp_path):
    message = refused(tmp_path, tb.zipped(tb.program(tb.named("\x1b[2J" + "x" * 1000, "f"))), "holds no")
    assert len(message) < 1000


def test_a_pickle_cannot_change_what_it_may_name(tmp_path):
    """BUILD sets attributes on whatever stands below: (None, {name: value})."""
    for (module, name), what in pickles.NAMES.items():
        for state in ({"function": 1, "name": 1}, (None, {"function": 1, "name": 1, "__call__": 1})):
            refused(tmp_path, tb.zipped(tb.program(tb.named(module, name) + tb.plain(state) + b"b")), "cannot be read")
        assert pickles.NAMES[module, name] is what
    built = tb.tensor() + tb.plain((None, {"storage": 1, "shape": 1})) + b"b"
    refused(tmp_path, tb.zipped(tb.program(tb.dictionary({"w": built})), {"0": bytes(16)}), "cannot be read")
    items = tb.call("collections", "OrderedDict") + tb.plain((None, {"items": 1})) + b"b"
    refused(tmp_path, tb.zipped(tb.program(items)), "holds no tensors")


ABSURD = {
    "a memo of 64 GB": tb.program(b"Nr" + struct.pack("<I", LONG) + b"0}"),
    "a memo by text": tb.program(b"Np4294967295\n0}"),
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "tuples that hash forever": tb.program(b"}N" + b"\x85" * 100_000 + b"Ns"),
    "the same by BUILD": tb.program(b"}N" + b"\x85Nb" * 100_000 + b"Ns"),
    "the same by the memo": tb.program(b"}N" + b"\x85q\x000h\x00" * 100_000 + b"Ns"),
    "the same by torch.Size": tb.program(b"}N" + (b"\x85q\x000" + SIZE + b"h\x00\x85R") * 1000 + b"Ns"),
    "an extension": tb.program(b"\x82\x01"),
    "no end": tb.PROTOCOL + b"}",
    "no start": b"garbage",
    "an empty stack": tb.program(b""),
    "itself": tb.program(b"}q\x00" + tb.plain("a") + b"h\x00s"),
    "bottomless": tb.program(tb.plain("a").join([b"}"] * 5000) + b"s" * 4999),
    "wide": tb.program(b"}q\x000}q\x01(" + b"".join(tb.plain(f"{i}") + b"}" for i in range(5000)) + b"u"),
    "laughing": tb.program(b"}(" + tb.plain("a") + tb.tensor() + b"uq\x05" + b"".join(
        b"0}(" + b"".join(tb.plain(c) + b"h\x05" for c in "bc") + b"uq\x05" for _ in range(60))),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_programs(tmp_path, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, tb.zipped(ABSURD[name], {"0": bytes(16)}), "cannot be read|holds")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


TENSORS = {
    "more elements than it has": ({"size": 1 << 40, "shape": (1 << 40,)}, "announces"),
    "over its end": ({"shape": (2,), "strides": (4,)}, "reaches over"),
    "behind its end": ({"offset": 4, "shape": ()}, "more axes"),
    "far behind it": ({"offset": 1 << 40, "shape": (1,)}, "reaches over"),
    "repeated": ({"shape": (1 << 40,), "strides": (0,)}, "w shows elements several times"),
    "negative": ({"shape": (-1,)}, "a shape that is none"),
    "backwards": ({"strides": (-1,)}, "a shape that is none"),
    "before its start": ({"offset": -1}, "without a storage"),
    "of truth": ({"shape": (True,)}, "a shape that is none"),
    "empty and endless": ({"shape": (0, 1 << 61, 1 << 61), "strides": (1, 1, 1)}, "cannot be read"),
    "of 100 axes": ({"shape": (1,) * 100, "strides": (1,) * 100}, "cannot be read"),
    "of another type": ({"kind": "DoubleStorage"}, "announced"),
    "outside of the zip": ({"key": "../../../../etc/passwd"}, "cannot be read"),
    "elsewhere in the zip": ({"key": "../data.pkl"}, "cannot be read"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_cannot_be(tmp_path, name):
    fields, match = TENSORS[name]
    content = tb.zipped(tb.program(tb.dictionary({"w": tb.tensor(**fields)})), {"0": bytes(16)})
    refused(tmp_path, content, match)


def test_a_zip_is_never_unpacked(tmp_path):
    stream = io.BytesIO(tb.zipped(tb.program(tb.dictionary({"w": tb.tensor()})), {"0": bytes(16)}))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("../../escaped", b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file.pt").write_bytes(stream.getvalue())
    assert list(read(tmp_path / "in" / "file.pt")) == ["w"]
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "file.pt"]


def test_a_compressed_zip_is_refused(tmp_path):
    pickled = tb.program(tb.dictionary({"w": tb.tensor("0", 1 << 20, (1 << 20,))}))
    refused(tmp_path, tb.zipped(pickled, {"0": bytes(4 << 20)}, compression=zipfile.ZIP_DEFLATED), "compressed")


def test_members_in_one_place_do_not_add_up(tmp_path):
    """A hundred entries of the directory that point to the same megabyte."""
    weights = {f"w{i}": tb.tensor(str(i), 1 << 18, (1 << 18,)) for i in range(100)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", tb.program(tb.dictionary(weights)))
        archive.writestr("archive/data/0", bytes(1 << 20))
        for i in range(1, 100):
            archive.filelist.append(info := zipfile.ZipInfo(f"archive/data/{i}"))
            zero = archive.getinfo("archive/data/0")
            info.file_size = info.compress_size = zero.file_size
            info.CRC, info.header_offset = zero.CRC, zero.header_offset
    refused(tmp_path, stream.getvalue(), "more bytes than it has")


def test_wrappers_in_wrappers(tmp_path):
    """Thousands, each of which is taken off; of a name made of nothing else the last one stays."""
    deep, one = "module." * 3000, np.ones(2, np.float32)
    write(tmp_path / "deep.safetensors", {f"{deep}w": one, f"{deep}n_averaged": one})
    assert list(unwrapped(read(tmp_path / "deep.safetensors"))) == ["w"]
    assert list(unwrapped({deep: one})) == ["module."]
    assert unwrapped({"module.n_averaged": one}) == unwrapped({}) == {}


def samples(tmp_path):
    """One small file of each kind: name → bytes."""
    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3, np.int64)}
    for suffix in (".npz", ".safetensors"):
        write(tmp_path / f"written{suffix}", tensors)
    paths = [SAVED / f"{name}.pt" for name in ("state_zip", "state_old", "training_zip", "training_old")]
    paths += [tmp_path / "written.npz", tmp_path / "written.safetensors"]
    return {path.name: path.read_bytes() for path in paths}


def test_a_file_that_is_cut_off(tmp_path):
    for name, content in samples(tmp_path).items():
        for tenth in range(10):
            refused(tmp_path, content[: len(content) * tenth // 10], "expected|cannot be read")
        assert name


def test_bits_that_flip(tmp_path):
    """The arrays, others, or a UserError; never anything else."""
    random = np.random.default_rng(0)
    for name, content in samples(tmp_path).items():
        for bit in random.integers(8 * len(content), size=200):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            (tmp_path / f"flipped_{name}").write_bytes(flipped)
            try:
                read(tmp_path / f"flipped_{name}")
            except UserError as error:
                assert f"flipped_{name}" in str(error), str(error)
