"""What the kernels share: tiles [units, a neuron's rows, sequences] of tensors that are (B, T, N, rows) over time."""

from typing import NamedTuple

import triton
import triton.language as tl

NOT_SPECIALISED = ["batch", "steps", "units", "begin", "end", "blocks", "programs", "per_branch"]
"""What the two kernels that loop over time are not compiled for."""


PATIENCE = tl.constexpr(2**26)
"""Looks at a counter, half a minute or more, after which a program takes the others for lost."""


class Shape(NamedTuple):
    """What a kernel is compiled for: a neuron's sizes and their padding to powers of two, the tile, the equations."""

    branches: int
    memory: int
    hidden: int  # 0: no hidden layer
    outputs: int
    branch_rows: int
    memory_rows: int
    hidden_rows: int
    output_rows: int
    block: int  # units of a tile
    lanes: int  # sequences of a tile
    readers: int  # synapses that the way back adds side by side
    ahead: int  # how many such additions are read at once: what takes time is waiting for memory
    early: bool  # the way back reads what was kept before it gathers, which takes registers
    mlp_activation: int  # index in operands.MLP_ACTIVATIONS
    activation: int  # index in operands.ACTIVATIONS
    filtered: bool
    highpassed: bool
    kept: bool  # a program owns one block of units and keeps its weights on the chip
    barrier: bool  # programs wait for each other after every step
    wide: bool  # tensors over time have 2^31 numbers or more: places are 64 bits wide


@triton.jit
def place(b, t, u, row, steps, units, rows: tl.constexpr):
    """Where [u, row, b] lies at step t in a tensor (B, steps, N, rows)."""
    time = (b * steps + t) * units
    return (time[None, None, :] + u[:, None, None]) * rows + row[None, :, None]


@triton.jit
def inside(b, u, row, batch, units, rows: tl.constexpr):
    """Whether there is such a [u, row, b]."""
    return (u < units)[:, None, None] & (row < rows)[None, :, None] & (b < batch)[None, None, :]


@triton.jit
def zeros(a: tl.constexpr, b: tl.constexpr, c: tl.constexpr):
    return tl.zeros((a, b, c), tl.float32)


@triton.jit
def zero_quads(block: tl.constexpr, rows: tl.constexpr, lanes: tl.constexpr):
    """A tile [u, k, lane] as a tuple of [u, k, q], four lanes each. A thread reads four lanes at once and has them
    where it has the number and weight of their row, so nothing moves between threads until `together`."""
    quad: tl.constexpr = lanes if lanes < 4 else 4
    quads: tl.constexpr = lanes // quad
    made = ()
    for _ in tl.static_range(quads):
        made = made + (tl.zeros((block, rows, quad), tl.float32),)
    return made


@triton.jit
def add_rows(total, table, row, weight, mask, k, size, first, each, lines, there, lanes: tl.constexpr):
    """Quads plus weight [u, k] · rows [u, k] of a table (·, lanes), times numbers k of a mask (B, size), if any. The
    tile's lanes begin at `first` of all `lines`, and `each` of them are of one sequence."""
    quad: tl.constexpr = lanes if lanes < 4 else 4
    added = ()
    for p in tl.static_range(len(total)):
        lane = p * quad + tl.arange(0, quad)[None, None, :]
        a = tl.load(table + (row.to(tl.int64)[:, :, None] * lanes + lane))
        if mask is not None:
            at = (first + lane) // each * size + k[:, :, None]
            a *= tl.load(mask + at, mask=(first + lane < lines) & there[:, :, None], other=0.0)
        added = added + (total[p] + weight[:, :, None] * a,)
    return added


@triton.jit
def together(quads, block: tl.constexpr, rows: tl.constexpr, lanes: tl.constexpr):
    """[u, k, lane] of its quads."""
    if lanes <= 4:
        return quads[0]
    elif lanes == 8:
        both = tl.join(quads[0], quads[1])
        return tl.reshape(tl.permute(both, (0, 1, 3, 2)), (block, rows, lanes))
    else:
        four = tl.join(tl.join(quads[0], quads[2]), tl.join(quads[1], quads[3]))
        return tl.reshape(tl.permute(four, (0, 1, 3, 4, 2)), (block, rows, lanes))


@triton.jit
def of_lists(table, n, there, sources, synapse, mask, nothing, per_branch, count, first, each, lines,
             block: tl.constexpr, rows: tl.constexpr, ahead: tl.constexpr, lanes: tl.constexpr):  # fmt: skip
    """[u, k, lane], what the synapses (per_branch, count) of branches n [u, k] bring from a table (nothing + 1, lanes);
    `first`, `each` and `lines` as in `add_rows`. So many as `ahead` are read at once."""
    total = zero_quads(block, rows, lanes)
    for begin in range(0, per_branch, ahead):
        for s in tl.static_range(ahead):
            # the hint: a thread has whole rows of the table, not neighbouring branches
            k = tl.max_contiguous((begin + s) * count + n, [1, 1])
            real = there & (begin + s < per_branch)
            source = tl.load(sources + k, mask=real, other=nothing)
            weight = tl.load(synapse + k, mask=real, other=0.0)
            total = add_rows(total, table, source, weight, mask, k, per_branch * count, first, each, lines, real, lanes)
    return together(total, block, rows, lanes)


@triton.jit
def of_readers(table, channel, there, first_of, rows, weights, readers, mask, nothing, size, first, each, lines,
               block: tl.constexpr, side: tl.constexpr, ahead: tl.constexpr, lanes: tl.constexpr):  # fmt: skip
    """[c, 1, lane], the gradient of channels (c,) from the branches that read them, whose own lie in a table
    (nothing + 1, lanes); first_of[c]:first_of[c + 1] of rows, weights and readers are the synapses. A sum in fixed
    order; `size`, `first`, `each` and `lines` as in `add_rows`."""
    low = tl.load(first_of + channel, mask=there, other=0)
    high = tl.load(first_of + channel + 1, mask=there, other=0)
    total = zero_quads(block, side, lanes)
    for begin in range(0, tl.max(high - low, 0), ahead * side):
        for s in tl.static_range(ahead):
            entry = low[:, None] + begin + s * side + tl.arange(0, side)[None, :]
            entry = tl.max_contiguous(entry, [1, 1])  # as in `of_lists`
            real = entry < high[:, None]
            row = tl.load(rows + entry, mask=real, other=nothing)
            weight = tl.load(weights + entry, mask=real, other=0.0)
            if mask is not None:
                entry = tl.load(readers + entry, mask=real, other=0)
            total = add_rows(total, table, row, weight, mask, entry, size, first, each, lines, real, lanes)
    return tl.sum(together(total, block, side, lanes), 1, keep_dims=True)


@triton.jit
def slot(table, t, rows, S: tl.constexpr):
    """Where this tile's rows of step t begin in a table (2, tiles, rows, lanes) of even and odd steps."""
    return table + ((t % 2) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * rows * S.lanes


@triton.jit
def matrix(pointer, u, units, row, rows, row_stride, column, columns, column_stride, size, first):
    """[u, row, column] of every unit's matrix, which begins at u·size + first; zero past the edges."""
    at = u[:, None, None] * size + first + row[None, :, None] * row_stride + column[None, None, :] * column_stride
    there = (u < units)[:, None, None] & (row < rows)[None, :, None] & (column < columns)[None, None, :]
    return tl.load(pointer + at, mask=there, other=0.0)


@triton.jit
def column(pointer, u, units, row, rows: tl.constexpr):
    """[u, row, 1] of (N, rows)."""
    return matrix(pointer, u, units, row, rows, 1, tl.arange(0, 1), 1, 1, rows, 0)


@triton.jit
def times(matrix, values):
    """[u, o, i] · [u, i, b] → [u, o, b], added in float32; the factors are of the matrix's type."""
    return tl.dot(matrix, values.to(matrix.dtype), input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def load_state(memory, branch, slow, b, u, batch, units, S: tl.constexpr):
    """Memory, filtered branches and high-pass (B, N, ·) as [u, row, b]; what a layer lacks is zeros of one row."""
    m, y = tl.arange(0, S.memory_rows), tl.arange(0, S.output_rows)
    first = tl.load(
        memory + place(b, 0, u, m, 1, units, S.memory), mask=inside(b, u, m, batch, units, S.memory), other=0.0
    )
    if S.filtered:
        j = tl.arange(0, S.branch_rows)
        at = place(b, 0, u, j, 1, units, S.branches)
        second = tl.load(branch + at, mask=inside(b, u, j, batch, units, S.branches), other=0.0)
    else:
        second = zeros(S.block, 1, S.lanes)
    if S.highpassed:
        at = place(b, 0, u, y, 1, units, S.outputs)
        third = tl.load(slow + at, mask=inside(b, u, y, batch, units, S.outputs), other=0.0)
    else:
        third = zeros(S.block, 1, S.lanes)
    return first, second, third


@triton.jit
def store_state(state, memory, branch, slow, b, u, batch, units, S: tl.constexpr):
    """The inverse of `load_state`."""
    first, second, third = state
    m, y = tl.arange(0, S.memory_rows), tl.arange(0, S.output_rows)
    tl.store(memory + place(b, 0, u, m, 1, units, S.memory), first, mask=inside(b, u, m, batch, units, S.memory))
    if S.filtered:
        j = tl.arange(0, S.branch_rows)
        at = place(b, 0, u, j, 1, units, S.branches)
        tl.store(branch + at, second, mask=inside(b, u, j, batch, units, S.branches))
    if S.highpassed:
        at = place(b, 0, u, y, 1, units, S.outputs)
        tl.store(slow + at, third, mask=inside(b, u, y, batch, units, S.outputs))


@triton.jit
def arrive(counter, S: tl.constexpr):
    """Tell the programs of this tile of sequences that what they read of this one's step lies there."""
    if S.barrier:
        tl.debug_barrier()  # every thread's stores come before the release
        tl.atomic_add(counter + tl.program_id(1), 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, done, programs, S: tl.constexpr):
    """Until all threads have done this step and, where programs wait, all programs of this tile of sequences have
    arrived `done` times: they must all be resident, or none returns."""
    if S.barrier:
        own = counter + tl.program_id(1)
        looks = 0
        while tl.atomic_add(own, 0, sem="acquire", scope="gpu") < done * programs:
            looks += 1
            if looks == PATIENCE:  # an error that the host hears of, instead of a kernel that nobody can end
                tl.inline_asm_elementwise("trap; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    tl.debug_barrier()


@triton.jit
def relu(x):
    """Of NaN it is NaN, which a GPU's maximum alone would make 0."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def tanh(x):
    """The series near zero, where the exponential would lose digits."""
    small = tl.abs(x) < 0.3
    near = tl.where(small, x, 0.0)
    s = near * near
    series = near * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(small, series, tl.where(x < 0, -far, far))
