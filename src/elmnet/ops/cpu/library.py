"""The compiled kernels: which instruction set fits this machine, how they are called, the memory they work in."""

import contextlib
import ctypes
import math
import mmap
import os
import re
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

INSTRUCTION_SETS = ("avx512", "avx2", "plain")
"""Best first; `plain` is what every machine of its kind has (SSE2 on x86-64, NEON on ARM)."""


def _fields() -> list[tuple[str, Any]]:
    """The members of `struct Call`, read from the header the kernels were compiled from."""
    header = (Path(__file__).parent / "kernels" / "call.h").read_text(encoding="utf-8")
    body = re.sub(r"//.*", "", header[header.index("struct Call {") :].split("{")[1].split("}")[0])
    kinds = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}
    fields: list[tuple[str, Any]] = []
    for declaration in filter(None, map(str.strip, body.split(";"))):
        kind = ctypes.c_void_p if "*" in declaration else kinds[declaration.split()[0]]
        names = declaration.replace("*", " ").split(",")
        fields += [(name.split()[-1], kind) for name in names]
    return fields


class Call(ctypes.Structure):
    """What a kernel is called with: kernels/call.h. Pointers are given as tensors; None and empty ones are null."""

    _fields_ = _fields()

    def set(self, **values: Any) -> None:
        """Assign fields."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                value = value.data_ptr() if value.numel() else None
            setattr(self, name, value)


class Library:
    """The kernels compiled for one instruction set."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._library = ctypes.CDLL(str(path))
        try:
            if self._library.elm_call_bytes() != ctypes.sizeof(Call):
                raise AttributeError
            for function in ("forward", "backward", "forward_bytes", "backward_bytes", "carry_bytes", "pack"):
                getattr(self._library, f"elm_{function}").argtypes = [ctypes.POINTER(Call), ctypes.c_int64]
                getattr(self._library, f"elm_{function}").restype = ctypes.c_int64
            self._library.elm_step.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
            self._library.elm_step.restype = ctypes.c_int64
            self._library.elm_machine_has.argtypes = [ctypes.c_char_p]
        except AttributeError:
            raise OSError(f"{path} was built from other sources than this Python code; install elmnet again") from None
        self._borrow_pool()

    def _borrow_pool(self) -> None:
        """Let the kernels use the threads of torch's OpenMP library, if it is GCC's, instead of their own."""
        with contextlib.suppress(OSError, AttributeError):
            mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")  # names may be in any code
            loaded = re.findall(r"\S*/libgomp\S*", mapped)
            torch_s = [path for path in dict.fromkeys(loaded) if "torch" in path] or loaded
            if torch_s:
                openmp = ctypes.CDLL(torch_s[0])
                names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
                self._library.elm_borrow_pool.argtypes = [ctypes.c_void_p] * 3
                self._library.elm_borrow_pool(*(ctypes.cast(getattr(openmp, name), ctypes.c_void_p) for name in names))

    def machine_has(self, instruction_set: str) -> bool:
        """Whether this machine can run code compiled for an instruction set."""
        return bool(self._library.elm_machine_has(instruction_set.encode()))

    def ask(self, function: str, call: Call, dtype: torch.dtype) -> int:
        """Call a kernel's function by name; all answer with a number."""
        answer = int(getattr(self._library, f"elm_{function}")(call, dtype.itemsize))
        if answer < 0:
            raise AssertionError(f"no kernel for {call.lanes} lanes of {dtype}")
        return answer

    def run(self, function: str, call: Call, dtype: torch.dtype) -> None:
        """Call `forward` or `backward`; other Python threads go on meanwhile."""
        workspace = MEMORY.take(self.ask(f"{function}_bytes", call, dtype) // dtype.itemsize, dtype)
        call.set(workspace=workspace)
        self.ask(function, call, dtype)

    def pack(self, call: Call, dtype: torch.dtype) -> Tensor:
        """A layer's weights as `step` reads them; the call, which points to them, has to keep them alive."""
        call.set(packed=None)
        packed = MEMORY.take(self.ask("pack", call, dtype) // dtype.itemsize, dtype)
        call.set(packed=packed)
        self.ask("pack", call, dtype)
        return packed

    def step(self, layers: "ctypes.Array[Call]", dtype: torch.dtype) -> None:
        """Run one time step of one sequence through layers."""
        if self._library.elm_step(ctypes.addressof(layers), len(layers), dtype.itemsize):
            raise MemoryError("no memory left for a step")


class Memory:
    """Large pieces of memory, used again and again: fresh pages cost as much as the arithmetic done in them.

    A piece is lent as a tensor and comes back by itself when the tensor and its views are gone. At most `keep` bytes
    (None: a quarter of the machine's memory) lie idle. Lent memory is not cleared; with `poison` it is filled with NaN,
    which tests use to find reads of what nobody wrote.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.keep = _physical_memory() // 4 if keep is None else keep
        self.poison = False
        self._idle: list[mmap.mmap] = []
        self._lock = threading.RLock()  # a finaliser may run inside `take`

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor (count,)."""
        size = max(count * dtype.itemsize, 1)
        piece = self._reuse(size) or self._map(size)
        array = np.frombuffer(piece, dtype=str(dtype).removeprefix("torch."), count=count)
        weakref.finalize(array, self._give_back, piece).atexit = False
        tensor = torch.from_numpy(array)
        return tensor.fill_(math.nan) if self.poison else tensor

    def _reuse(self, size: int) -> mmap.mmap | None:
        with self._lock:
            fits = [piece for piece in self._idle if size <= len(piece) <= 2 * size + 2**21]
            if not fits:
                return None
            best = min(fits, key=len)
            self._idle = [piece for piece in self._idle if piece is not best]
            return best

    @staticmethod
    def _map(size: int) -> mmap.mmap:
        huge = 2**21
        # by default memory is shared: a child of `fork` would write into its parent's pieces
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        piece = mmap.mmap(-1, size if size < huge else -(-size // huge) * huge, **private)
        if size >= huge and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                piece.madvise(mmap.MADV_HUGEPAGE)
        return piece

    def _give_back(self, piece: mmap.mmap) -> None:
        with self._lock:
            self._idle.append(piece)
            while self._idle and sum(map(len, self._idle)) > self.keep:
                self._idle.pop(0)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**33


MEMORY = Memory()


def _load() -> Library | str:
    """The best library this machine can run (or $ELMNET_INSTRUCTION_SET), or why there is none."""
    folder = Path(__file__).parent
    try:
        plain = Library(folder / "kernels_plain.so", "plain")
        wanted = os.environ.get("ELMNET_INSTRUCTION_SET")
        if wanted is not None and wanted not in INSTRUCTION_SETS:
            return f"ELMNET_INSTRUCTION_SET must be one of {', '.join(INSTRUCTION_SETS)}, got {wanted!r}"
        for name in INSTRUCTION_SETS:
            path = folder / f"kernels_{name}.so"
            if wanted in (None, name) and path.exists() and plain.machine_has(name):
                return Library(path, name)
        return f"this machine has no {wanted} instructions"
    except FileNotFoundError:
        pass
    except OSError as error:
        if (folder / "kernels_plain.so").exists():
            return f"its compiled kernels cannot be loaded ({error})"
    return "its kernels were not compiled when elmnet was installed (a C++ compiler was missing or failed)"


LIBRARY: Library | str = _load()
"""The kernels in use, or in words why there are none."""
