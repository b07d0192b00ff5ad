"""Interpreted kernels with all programs of a grid at once, an access to memory at a time in random order, each checked.

Triton's interpreter runs one program after another: one that waits for the others would wait for ever, and everybody
sees what anybody has stored. Here an access must come after all it may not overtake, by what a GPU promises: a barrier
orders the threads of one program, a release that another program acquires orders what lies before a barrier before the
one and after a barrier behind the other, and nothing else orders anything (happened-before: Lamport 1978; a shadow of
memory that holds clocks: FastTrack, Flanagan and Freund 2009). So kernels that pass do not depend on luck.
"""

import inspect
import random
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from triton.runtime import interpreter


class _Memory:
    """A kernel's tensors: in which epoch of which program each number was written, and read by each."""

    def __init__(self, tensors, programs):
        spans = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), t.element_size()) for t in tensors]
        merged = []
        for start, end, size in sorted(spans):
            if merged and start < merged[-1][1]:  # views of one tensor
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([start, end, size])
        self.starts, self.ends, self.sizes = np.array(merged, np.uint64).T
        self.first = np.cumsum([0, *(self.ends - self.starts) // self.sizes], dtype=np.uint64)
        numbers = int(self.first[-1])
        self.written, self.writer = np.zeros(numbers, np.int64), np.zeros(numbers, np.int64)
        self.read = np.zeros((programs, numbers), np.int64)

    def places(self, addresses):
        """Which numbers lie there."""
        k = np.searchsorted(self.starts, addresses, side="right") - 1
        outside = (k < 0) | (addresses >= self.ends[k])
        assert not outside.any(), f"{outside.sum()} of {outside.size} addresses are in no tensor"
        return (self.first[k] + (addresses - self.starts[k]) // self.sizes[k]).astype(np.int64)


class _Program(threading.Thread):
    """A program: between two barriers lies an epoch of it, the first is 1."""

    def __init__(self, grid, number, index, body):
        super().__init__(daemon=True)
        self.grid, self.number, self.index, self.body = grid, number, index, body
        self.turn = threading.Semaphore(0)
        self.epoch = 1
        self.seen = np.ones(grid.count, np.int64)  # of each program, all epochs before this one happened before
        self.acquired = self.seen.copy()  # what one thread knows and a barrier will tell the others
        self.looks = 0  # at a counter, in vain
        self.taken = []  # what was read in this epoch

    def run(self):
        try:
            self.wait()
            self.body()
        except BaseException as error:
            self.grid.error = self.grid.error or error
        self.grid.alive.remove(self)
        self.grid.next()

    def wait(self):
        self.turn.acquire()
        if self.grid.error:
            raise self.grid.error
        interpreter.interpreter_builder.set_grid_idx(*self.index)

    def barrier(self):
        self.epoch += 1
        self.acquired[self.number] = self.epoch
        self.seen = self.acquired.copy()
        self.taken = []

    def load(self, at):
        memory = self.grid.memory
        self.come_after(memory.written[at], memory.writer[at], "reads what was written")
        memory.read[self.number, at] = self.epoch
        self.taken.append(at)

    def store(self, at):
        memory = self.grid.memory
        assert len(np.unique(at)) == len(at), f"program {self.index} writes a number twice at once"
        self.come_after(memory.written[at], memory.writer[at], "overwrites what was written")
        for reader in range(self.grid.count):
            # what replaces numbers was computed from them
            if reader != self.number or not any(np.array_equal(at, taken) for taken in self.taken):
                self.come_after(memory.read[reader, at], np.full(len(at), reader), "overwrites what was read")
        memory.written[at], memory.writer[at] = self.epoch, self.number

    def come_after(self, epochs, programs, what):
        late = epochs >= self.seen[programs]
        by = sorted({self.grid.alike[program].index for program in programs[late]})
        assert not late.any(), f"program {self.index} {what} by {by}, unordered: {late.sum()} of {late.size} numbers"

    def atomic(self, address, value, semantics):
        """Addition to a counter; one thread does it."""
        known = self.grid.published.setdefault(address, np.ones(self.grid.count, np.int64))
        if "ACQUIRE" in semantics:
            self.acquired = np.maximum(self.acquired, known)
        if "RELEASE" in semantics:
            self.grid.published[address] = np.maximum(known, self.seen)
        if value:
            self.grid.stir()
        else:
            self.looks += 1


class _Grid:
    """The programs of a grid, one of which runs at a time."""

    def __init__(self, tensors, indices, bodies, seed):
        self.count = len(indices)
        self.memory = _Memory([tensor for tensor in tensors if tensor.numel()], self.count)
        self.random = random.Random(seed)
        self.alike = [_Program(self, n, *both) for n, both in enumerate(zip(indices, bodies, strict=True))]
        self.alive = list(self.alike)
        self.published = {}  # by counters, what those who acquire them see
        self.done, self.error = threading.Semaphore(0), None

    def run(self):
        for program in self.alike:
            program.start()
        self.stir()
        self.next()
        self.done.acquire()
        if self.error:
            raise self.error

    def stir(self):
        """Others may go on, and now others come first."""
        self.random.shuffle(self.alive)
        for program in self.alive:
            program.looks = 0

    def next(self):
        """Mostly the same program goes on as far as it can, now and then another."""
        if not self.alive:
            self.done.release()
            return
        ready = [program for program in self.alive if program.looks < 2]
        if not ready and not self.error:
            self.error = AssertionError(f"programs {sorted(p.index for p in self.alive)} wait for each other")
        ready = ready or self.alive
        self.current = ready[0] if self.random.random() < 0.9 else self.random.choice(ready)
        self.current.turn.release()

    def turn(self):
        """Before each access; returns the program whose it is."""
        program = self.current
        self.next()
        program.wait()
        return program


class _AtOnce:
    """Stands for a kernel's function: the last call of a grid runs them all."""

    def __init__(self, fn, seed):
        self.fn, self.seed, self.__name__, self.__globals__ = fn, seed, fn.__name__, fn.__globals__
        self.__signature__ = inspect.signature(fn)
        self.indices, self.bodies = [], []

    def __call__(self, **arguments):
        builder = interpreter.interpreter_builder
        self.indices.append(builder.grid_idx)
        self.bodies.append(lambda: self.fn(**arguments))
        if len(self.indices) == np.prod(builder.grid_dim):
            _Executor.grid = _Grid(self.tensors, self.indices, self.bodies, self.seed)
            _Executor.grid.run()


class _Executor(interpreter.GridExecutor):
    grid, seed = None, 0

    def __init__(self, fn, *rest):
        super().__init__(fn, *rest)
        self.fn = _AtOnce(fn, self.seed)

    def __call__(self, *given, **named):
        self.fn.tensors = [tensor for tensor in (*given, *named.values()) if hasattr(tensor, "data_ptr")]
        return super().__call__(*given, **named)


@contextmanager
def side_by_side(seed=0):
    """Every kernel that is started within runs so; `seed` is of the order."""
    kinds = interpreter.InterpreterBuilder
    load, store, rmw = kinds.create_masked_load, kinds.create_masked_store, kinds.create_atomic_rmw

    def places(program, pointers, mask):
        there = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        program.looks = 0
        return program.grid.memory.places(pointers.data[there])

    def checked_load(self, pointers, mask, *rest):
        program = _Executor.grid.turn()
        program.load(places(program, pointers, mask))
        return load(self, pointers, mask, *rest)

    def checked_store(self, pointers, value, mask, *rest):
        program = _Executor.grid.turn()
        program.store(places(program, pointers, mask))
        return store(self, pointers, value, mask, *rest)

    def checked_rmw(self, operation, pointer, value, mask, semantics, scope):
        _Executor.grid.turn().atomic(int(pointer.data.item()), int(value.data.item()), semantics.name)
        return rmw(self, operation, pointer, value, mask, semantics, scope)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Executor, "seed", seed)
        patch.setattr(interpreter, "GridExecutor", _Executor)
        patch.setattr(kinds, "create_masked_load", checked_load)
        patch.setattr(kinds, "create_masked_store", checked_store)
        patch.setattr(kinds, "create_atomic_rmw", checked_rmw)
        patch.setattr(kinds, "create_barrier", lambda self: _Executor.grid.current.barrier())
        yield
