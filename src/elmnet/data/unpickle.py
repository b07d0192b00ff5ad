"""Reading pickles that hold nothing but data: dictionaries, lists, numbers, texts and NumPy arrays.

A pickle is a program. This reader hands it a few harmless functions of its own in the place of NumPy's, and refuses
every other name; no constructor or `__setstate__` of NumPy ever sees the file's arguments.
"""

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmnet.errors import DataError

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_KINDS = "biufSU"


def load_plain(data: bytes, where: str) -> Any:
    """What the pickle holds; arrays come as `ArrayBox`, whose `value` is the array. Python 2's texts are latin-1.

    Raises:
        DataError: it names anything but arrays, or is damaged.
    """
    try:
        return _Reader(io.BytesIO(data), where).load()
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{where}: damaged pickle: it asks for more memory than there is") from error
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it has run
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{where}: damaged, or no pickle of plain data: {words}") from error


class ArrayBox:
    """An array under construction, as the pickle's opcodes describe it."""

    __slots__ = ("value",)
    value: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind) or not isinstance(shape, tuple):
            raise ValueError("an array without shape or type")
        flat = np.frombuffer(_bytes(raw), dtype=kind.dtype())
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Kind:
    """A dtype under construction: its code, and the byte order that follows in its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or code[:1] not in _KINDS or not code[1:].isdecimal():
            raise ValueError(f"an array of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


def _bytes(raw: Any) -> bytes:
    if isinstance(raw, str):  # Python 2's bytes, read as latin-1
        return raw.encode("latin-1")
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw)
    raise ValueError(f"array data of type {type(raw).__name__}")


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file, encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Any] = {"_reconstruct": self._array, "scalar": self._scalar, "_frombuffer": self._frombuffer}
        if module in _NUMPY and name in known:
            return known[name]
        if module == "numpy" and name == "dtype":
            return self._kind
        if module == "numpy" and name == "ndarray":
            return "ndarray"
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return self._encode
        if module in ("builtins", "__builtin__") and name == "bytes":
            return self._no_bytes
        raise DataError(
            f"{self._where}: refused: this pickle names {module}.{name}; "
            "only dictionaries, lists, numbers, texts and plain NumPy arrays are read"
        )

    # methods, for a pickle may set attributes on what it is handed, and on a bound method it cannot
    def _array(self, *_: Any) -> ArrayBox:
        return ArrayBox()

    def _kind(self, code: Any, *_: Any) -> _Kind:
        return _Kind(code)

    def _scalar(self, kind: Any, raw: Any) -> Any:
        if not isinstance(kind, _Kind):
            raise ValueError("a scalar without a type")
        return np.frombuffer(_bytes(raw), dtype=kind.dtype(), count=1)[0].item()

    def _frombuffer(self, raw: Any, kind: Any, shape: Any, order: Any) -> ArrayBox:
        box = ArrayBox()
        box.__setstate__((shape, kind, order == "F", raw))
        return box

    def _no_bytes(self) -> bytes:
        """How Python 3 writes empty bytes for Python 2."""
        return b""

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise ValueError(f"bytes written as {encoding!r}")
        return text.encode("latin-1")
