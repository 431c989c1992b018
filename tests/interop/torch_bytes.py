"""PyTorch files written byte by byte, good ones and ones that torch.save would never write."""

import io
import pickle
import zipfile

PROTOCOL = b"\x80\x02"
STOP = b"."


def plain(value):
    """A plain value as a piece of a pickle's program."""
    return pickle.dumps(value, 2).removeprefix(PROTOCOL).removesuffix(STOP)


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def call(module, name, *args):
    """`args` are programs themselves."""
    return named(module, name) + b"(" + b"".join(args) + b"tR"


def dictionary(items):
    return b"}(" + b"".join(plain(name) + program for name, program in items.items()) + b"u"


def storage(key, size, kind="FloatStorage", module="torch", view=()):
    """Old files have a view behind it: (its key, start, size) or None."""
    return b"(" + plain("storage") + named(module, kind) + b"".join(map(plain, (key, "cpu", size, *view))) + b"tQ"


def tensor(key="0", size=4, shape=(4,), strides=(1,), offset=0, kind="FloatStorage", metadata=None):
    hooks = call("collections", "OrderedDict")
    args = storage(key, size, kind), plain(offset), plain(shape), plain(strides), plain(False), hooks
    more = () if metadata is None else (plain(metadata),)
    return call("torch._utils", "_rebuild_tensor_v2", *args, *more)


def program(body):
    return PROTOCOL + body + STOP


def zipped(pickled, storages=None, order=b"little", compression=zipfile.ZIP_STORED):
    """A zip as torch.save writes it: bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        if order:
            archive.writestr("archive/byteorder", order)
        for key, elements in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", elements)
    return stream.getvalue()


def old(pickled, storages=None, little_endian=True):
    """A file as torch.save wrote it before 1.6: bytes. Storages: key → (elements, their number)."""
    storages = storages or {}
    words = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian})
    head = b"".join(pickle.dumps(word, 2) for word in words)
    body = b"".join(size.to_bytes(8, "little") + elements for elements, size in storages.values())
    return head + pickled + pickle.dumps(list(storages), 2) + body
