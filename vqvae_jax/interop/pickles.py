"""Pickles as torch.save writes them, read without torch and without executing anything.

A pickle is a program that may call whatever it names. Here no name is ever looked up: those in NAMES mean what stands
there, any other an empty class (`StandIn`) that takes part in everything and does nothing. So trainings' files can be
read that hold arguments, callbacks and configs beside the weights. Tensors come back as descriptions (`Tensor`), and
what no weights are made of as `Ignored`. All that a pickle gets hold of is immutable, because it may also set
attributes.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from vqvae_jax.interop.reading import plain
from vqvae_jax.types import UserError

LONGEST = 16 << 20  # bytes; a checkpoint of 10,000 tensors with Adam's moments takes 6 MB
MOST = 1000  # names that are none of ours
VIEWS = {"neg": "a negated", "conj": "a conjugated"}  # as the metadata of a tensor call them
DEEPEST = 100  # tuples in tuples: hashing them recurses in C, without a check


class StorageType(NamedTuple):
    """An element type of torch, by the name of its storage: "Float", "BFloat16"."""

    name: str


class Storage(NamedTuple):
    """Where the elements of tensors lie; several tensors may share one."""

    type: StorageType
    key: str
    size: int  # elements in all
    start: int = 0  # a view of another storage, in old files
    stop: int | None = None


class Tensor(NamedTuple):
    """What a pickle says of a tensor, unchecked but for the types."""

    storage: Storage
    offset: int  # all in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Call(NamedTuple):
    """Something that a pickle may call."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Ignored:
    """Stands for a value that is of no use here."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Nothing of it is kept."""


class StandIn(Ignored):
    """What a name stands for that is none of ours: a class of its own for each, and whatever is made of it.

    It can be called, built, filled and indexed, as objects are in pickles, and keeps nothing of it. On the class itself
    none of this can be done.
    """

    __slots__ = ()
    named = ""  # "argparse.Namespace"

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        return super().__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> "StandIn":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing of it is kept."""

    def append(self, value: Any) -> None:
        """Nothing of it is kept."""

    extend = add = append


def stood_for(value: Any) -> str | None:
    """The name that a value is a stand-in of, or None where it is something else."""
    kind = value if isinstance(value, type) else type(value)
    return plain(kind.named) if issubclass(kind, StandIn) else None


class View(ValueError):
    """A tensor whose elements are not those of its storage."""


class Dict(dict):
    """collections.OrderedDict, without the attributes that torch hangs on it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Such as `_metadata`, the versions of modules."""


def load(stream: IO[bytes], path: str | Path) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of a stream, which then stands behind it, and the storages it mentions by key.

    Raises:
        UserError: it names a kind of tensor that is not read, or is absurd.
        Exception: of many kinds, where it is no pickle; see `reading`.
    """
    start = stream.tell()
    piece = stream.read(LONGEST)
    try:
        length = _scan(io.BytesIO(piece))
    except ValueError as error:
        if len(piece) < LONGEST:
            raise
        raise UserError(f"{path} holds more than {LONGEST >> 20} MiB beside its tensors; save weights alone") from error
    stream.seek(start + length)
    unpickler = _Unpickler(io.BytesIO(piece[:length]), path)
    try:
        return unpickler.load(), unpickler.storages
    except View as error:
        raise UserError(f"{path} holds {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], path: str | Path):
        super().__init__(stream, encoding="utf-8")
        self.path = path
        self.storages: dict[str, Storage] = {}
        self.others: dict[tuple[str, str], type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in NAMES:
            return NAMES[module, name]
        if what := _unreadable(module, name):
            raise UserError(f"{self.path} {what}")
        if (module, name) not in self.others:
            if len(self.others) == MOST:
                raise UserError(f"{self.path} names more than {MOST} things that are no weights; save weights alone")
            self.others[module, name] = _stand_in(module, name)
        return self.others[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
            raise UserError(f"{self.path} holds a whole module with its code; save model.state_dict() instead")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, StorageType) or not isinstance(key, str) or not _is_size(count):
            raise ValueError("a storage is described in no known way")
        storage = Storage(kind, key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage has two types or sizes")
        return _part(storage, *view)


def _scan(stream: io.BytesIO) -> int:
    """The length of a pickle, walked over without obeying it: its memo and depth are sane."""
    depths = _TupleDepths()
    for op, arg, position in pickletools.genops(stream):
        # The memo is an array that grows to the largest index; who writes one counts upwards.
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(arg or 0) > (position or 0):
            raise ValueError(f"memo index {arg}")
        depths.follow(op, arg)
    return stream.tell()


class _TupleDepths:
    """A pickle's stack and memo, of which only is known how deep tuples lie in tuples at most."""

    MARK = -1

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[int, int] = {}

    def follow(self, op: pickletools.OpcodeInfo, arg: Any) -> None:
        if op.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if arg is None else int(arg)] = self.stack[-1]
        elif op.name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(arg)])
        elif op.name == "DUP":
            self.stack.append(self.stack[-1])
        elif op.name == "POP":
            self.stack.pop()
        elif op.name == "MARK":
            self.stack.append(self.MARK)
        else:
            self._replace(op)

    def _replace(self, op: pickletools.OpcodeInfo) -> None:
        taken = self._take(op.stack_before)
        deep = max(taken, default=0) + op.name.startswith("TUPLE")
        if deep > DEEPEST:
            raise ValueError(f"tuples in tuples, more than {DEEPEST} deep")
        self.stack += [deep] * len(op.stack_after)

    def _take(self, before: list[pickletools.StackObject]) -> list[int]:
        if pickletools.markobject not in before:
            return [self.stack.pop() for _ in before]
        taken = []
        while (depth := self.stack.pop()) != self.MARK:
            taken.append(depth)
        for _ in before[: before.index(pickletools.markobject)]:
            self.stack.pop()
        return taken


def _part(storage: Storage, view: Any = None) -> Storage:
    """Of a storage as old files have it: view is (key, start, count), or None for all of it."""
    if view is None:
        return storage
    _, start, count = view
    if not _is_size(start) or not _is_size(count) or start + count > storage.size:
        raise ValueError("a view lies outside of its storage")
    return storage._replace(start=start, stop=start + count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> Tensor:
    metadata = more[2] if len(more) > 2 else None  # behind requires_grad and hooks
    if isinstance(metadata, dict):
        for kind in filter(metadata.get, VIEWS):
            raise View(f"{VIEWS[kind]} view; save .resolve_{kind}()")
    if not isinstance(storage, Storage) or not _is_size(offset):
        raise ValueError("a tensor without a storage")
    return Tensor(storage, offset, _sizes(shape), _sizes(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    if stood_for(tensor) is None and not isinstance(tensor, Tensor):
        raise ValueError("a parameter that is no tensor")
    return tensor


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(map(_is_size, values)):
        raise ValueError("a shape that is none")
    return tuple(values)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _dict(items: Any = ()) -> Dict:
    return Dict(() if stood_for(items) else items)


def _ignored(*_: Any) -> Ignored:
    return Ignored()


def _stand_in(module: str, name: str) -> type[StandIn]:
    module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
    return type("StandIn", (StandIn,), {"__slots__": (), "named": f"{module}.{name}"})


def _unreadable(module: str, name: str) -> str | None:
    """Why a name is refused, as the end of a sentence that begins with the file."""
    for part, what in UNREADABLE.items():
        if module.startswith("torch") and part in name:
            return f"holds {what} (torch's {plain(name)}), which are not read; convert them to plain tensors and save"
    return None


UNREADABLE = {  # part of a name of torch → what it means
    "rebuild_qtensor": "quantized tensors",
    "QInt": "quantized tensors",
    "QUInt": "quantized tensors",
    "sparse": "sparse tensors",
    "Complex": "complex numbers",
    "nested": "nested tensors",
    "rebuild_tensor_v3": "tensors of an unusual dtype",
}
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
NAMES: dict[tuple[str, str], Any] = {  # all that means something
    ("collections", "OrderedDict"): Call(_dict),
    ("collections", "Counter"): Call(_dict),  # of a scheduler's state
    ("torch._utils", "_rebuild_tensor"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Call(_parameter),
    ("torch", "Size"): Call(_sizes),
    ("torch", "device"): Call(_ignored),
    ("_codecs", "encode"): Call(_ignored),  # the bytes of a numpy number
    ("numpy", "dtype"): Call(_ignored),
    ("numpy", "ndarray"): Call(_ignored),
}
NAMES |= {(torch, f"{kind}Storage"): StorageType(kind) for kind in STORAGES for torch in ("torch", "torch.cuda")}
NAMES |= {("torch", dtype): Call(_ignored) for dtype in DTYPES}
NAMES |= {
    (f"numpy.{core}.multiarray", name): Call(_ignored)
    for core in ("core", "_core")
    for name in ("scalar", "_reconstruct")
}
