"""The Triton kernels. Tiles are [units, a neuron's rows, sequences]; tensors over time are (B, T, N, rows).

`_forward_step` and `_backward_step` are one time step of a block of units for a tile of sequences; every regime
(plan.py) runs these two. Nothing here is compiled for a batch size, a length or a number of units.
"""

from typing import NamedTuple

import triton
import triton.language as tl

NOT_SPECIALISED = ["batch", "steps", "units", "begin", "end", "blocks", "programs", "per_branch"]


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
    readers: int  # synapses that the way back reads at a time
    mlp_activation: int  # index in operator.MLP_ACTIVATIONS
    activation: int  # index in operator.ACTIVATIONS
    filtered: bool
    highpassed: bool
    kept: bool  # a program owns one block of units and keeps its weights on the chip
    barrier: bool  # programs wait for each other after every step
    wide: bool  # tensors over time have 2^31 numbers or more: places are 64 bits wide


@triton.jit
def _place(b, t, u, row, steps, units, rows: tl.constexpr):
    """Where [u, row, b] lies at step t in a tensor (B, steps, N, rows)."""
    time = (b * steps + t) * units
    return (time[None, None, :] + u[:, None, None]) * rows + row[None, :, None]


@triton.jit
def _inside(b, u, row, batch, units, rows: tl.constexpr):
    return (u < units)[:, None, None] & (row < rows)[None, :, None] & (b < batch)[None, None, :]


@triton.jit
def _zeros(a: tl.constexpr, b: tl.constexpr, c: tl.constexpr):
    return tl.zeros((a, b, c), tl.float32)


@triton.jit
def _matrix(pointer, u, units, row, rows, row_stride, column, columns, column_stride, size, first):
    """[u, row, column] of every unit's matrix, which begins at u·size + first; zero past the edges."""
    place = u[:, None, None] * size + first
    place += row[None, :, None] * row_stride + column[None, None, :] * column_stride
    inside = (u < units)[:, None, None] & (row < rows)[None, :, None] & (column < columns)[None, None, :]
    return tl.load(pointer + place, mask=inside, other=0.0)


@triton.jit
def _column(pointer, u, units, row, rows: tl.constexpr):
    """[u, row, 1] of (N, rows)."""
    return _matrix(pointer, u, units, row, rows, 1, tl.arange(0, 1), 1, 1, rows, 0)


@triton.jit
def _times(matrix, values):
    """[u, o, i] · [u, i, b] → [u, o, b], added in float32; the factors are of the matrix's type."""
    return tl.dot(matrix, values.to(matrix.dtype), input_precision="ieee", out_dtype=tl.float32)


@triton.jit
def _tanh(x):
    """The series near zero, where the exponential would lose digits."""
    small = tl.abs(x) < 0.3
    near = tl.where(small, x, 0.0)
    s = near * near
    series = near * (1 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(small, series, tl.where(x < 0, -far, far))


@triton.jit
def _activate(h, kind: tl.constexpr):
    """The MLP's activation: ReLU², ReLU, SiLU."""
    if kind == 0:
        positive = tl.maximum(h, 0.0)
        return positive * positive
    elif kind == 1:
        return tl.maximum(h, 0.0)
    else:
        return h * tl.sigmoid(h)


@triton.jit
def _activate_back(h, kind: tl.constexpr):
    """Its derivative."""
    if kind == 0:
        return 2 * tl.maximum(h, 0.0)
    elif kind == 1:
        return tl.where(h > 0, 1.0, 0.0)
    else:
        s = tl.sigmoid(h)
        return s * (1 + h * (1 - s))


@triton.jit
def _matrices(u, units, weight1, weight2, S: tl.constexpr):
    """What a block of units multiplies with on the way forward: the first affine map, cut into the part that reads the
    branches and the part that reads the memory, and the second. The compiler keeps them in shared memory; vectors are
    read at every step, since in registers they crowd out the rest."""
    j, m, h = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows), tl.arange(0, S.hidden_rows)
    width: tl.constexpr = S.branches + S.memory
    if S.hidden > 0:
        size: tl.constexpr = S.hidden * width
        of_branch = _matrix(weight1, u, units, h, S.hidden, width, j, S.branches, 1, size, 0)
        of_memory = _matrix(weight1, u, units, h, S.hidden, width, m, S.memory, 1, size, S.branches)
        second = _matrix(weight2, u, units, m, S.memory, S.hidden, h, S.hidden, 1, S.memory * S.hidden, 0)
    else:
        size: tl.constexpr = S.memory * width
        of_branch = _matrix(weight2, u, units, m, S.memory, width, j, S.branches, 1, size, 0)
        of_memory = _matrix(weight2, u, units, m, S.memory, width, m, S.memory, 1, size, S.branches)
        second = of_memory  # not used
    return of_branch, of_memory, second


@triton.jit
def _forward_step(
    t, u, b, matrices, state,
    branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
    bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
    batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest,
    S: tl.constexpr,
):  # fmt: skip
    """One step; `branch` holds the feed-forward drive and becomes the branches. Returns the new state."""
    of_branch, of_memory, second = matrices
    before, low, slow = state  # memory, filtered branches, high-pass
    j, m = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows)
    h, y = tl.arange(0, S.hidden_rows), tl.arange(0, S.output_rows)
    at_j, in_j = _place(b, t, u, j, steps, units, S.branches), _inside(b, u, j, batch, units, S.branches)
    at_m, in_m = _place(b, t, u, m, steps, units, S.memory), _inside(b, u, m, batch, units, S.memory)
    at_y, in_y = _place(b, t, u, y, steps, units, S.outputs), _inside(b, u, y, batch, units, S.outputs)
    live = (t < tl.load(lengths + b, mask=b < batch, other=0))[None, None, :]

    x = tl.load(branch + at_j, mask=in_j, other=0.0)
    if heard is not None:
        lateral = tl.zeros_like(x)
        for s in range(per_branch):
            k = (u[:, None, None] * S.branches + j[None, :, None]) * per_branch + s
            own = (u < units)[:, None, None] & (j < S.branches)[None, :, None]
            source = tl.load(sources + k, mask=own, other=-1)
            weight = tl.load(synapse + k, mask=own, other=0.0)
            row = (t % 2) * units * S.outputs + source
            a = tl.load(heard + row * batch + b[None, None, :], mask=in_j & (source >= 0), other=0.0)
            if mask_synapse is not None:
                per_sequence = b[None, None, :] * units * S.branches * per_branch
                a *= tl.load(mask_synapse + per_sequence + k, mask=in_j, other=0.0)
            lateral += weight * a
        x += input_scale * lateral
    if S.filtered:
        x += branch_decay * low
        low = tl.where(live, x, low)
    if memory is not None:
        tl.store(branch + at_j, x, mask=in_j)

    decayed = _column(decay, u, units, m, S.memory) * before
    first = _times(of_branch, x) + _times(of_memory, decayed)
    offset = _column(bias2, u, units, m, S.memory)
    if S.hidden > 0:
        first += _column(bias1, u, units, h, S.hidden)
        if memory is not None:
            at_h = _place(b, t, u, h, steps, units, S.hidden)
            tl.store(hidden + at_h, first, mask=_inside(b, u, h, batch, units, S.hidden))
        update = _times(second, _activate(first, S.mlp_activation)) + offset
    else:
        update = first + offset
    kept = update
    if mask_memory is not None:
        kept *= tl.load(mask_memory + _place(b, 0, u, m, 1, units, S.memory), mask=in_m, other=0.0)
    if memory is not None:
        tl.store(mlp + at_m, update, mask=in_m)
    absorbed = _column(gain, u, units, m, S.memory)
    new = tl.where(live, decayed + absorbed * (1.7159 * _tanh(kept * (2 / 3))), before)
    if memory is not None:
        tl.store(memory + at_m, new, mask=in_m)
    if S.output_rows == 1:
        read = tl.sum(_column(readout_weight, u, units, m, S.memory) * new, 1, keep_dims=True)
    else:
        size: tl.constexpr = S.outputs * S.memory
        rows = _matrix(readout_weight, u, units, y, S.outputs, S.memory, m, S.memory, 1, size, 0)
        read = _times(rows, new)
    v = read + _column(bias, u, units, y, S.outputs)
    if S.highpassed:
        faded = highpass_decay * slow + highpass_rest * read
        v -= faded
        slow = tl.where(live, faded, slow)
    if S.activation == 0:
        a = v
    elif S.activation == 1:
        a = tl.maximum(v, 0.0)
    else:
        a = tl.where(v > 0, 1.0, 0.0)
    a = tl.where(live, a, 0.0)

    if memory is not None:
        tl.store(readout + at_y, read, mask=in_y)
        tl.store(drive + at_y, v, mask=in_y)
    tl.store(out + at_y, a, mask=in_y)
    if heard is not None:
        to = ((t + 1) % 2) * units * S.outputs + u[:, None, None] * S.outputs + y[None, :, None]
        if mask_recurrent is not None:
            a *= tl.load(mask_recurrent + _place(b, 0, u, y, 1, units, S.outputs), mask=in_y, other=0.0)
        tl.store(heard + to * batch + b[None, None, :], a, mask=in_y)
    return new, low, slow


@triton.jit
def _load_state(memory, branch, slow, b, u, batch, units, S: tl.constexpr):
    """Memory, filtered branches and high-pass (B, N, ·) as [u, row, b]; what a layer lacks is zeros of one row."""
    m, y = tl.arange(0, S.memory_rows), tl.arange(0, S.output_rows)
    first = tl.load(
        memory + _place(b, 0, u, m, 1, units, S.memory), mask=_inside(b, u, m, batch, units, S.memory), other=0.0
    )
    if S.filtered:
        j = tl.arange(0, S.branch_rows)
        at = _place(b, 0, u, j, 1, units, S.branches)
        second = tl.load(branch + at, mask=_inside(b, u, j, batch, units, S.branches), other=0.0)
    else:
        second = _zeros(S.block, 1, S.lanes)
    if S.highpassed:
        at = _place(b, 0, u, y, 1, units, S.outputs)
        third = tl.load(slow + at, mask=_inside(b, u, y, batch, units, S.outputs), other=0.0)
    else:
        third = _zeros(S.block, 1, S.lanes)
    return first, second, third


@triton.jit
def _store_state(state, memory, branch, slow, b, u, batch, units, S: tl.constexpr):
    first, second, third = state
    m, y = tl.arange(0, S.memory_rows), tl.arange(0, S.output_rows)
    tl.store(memory + _place(b, 0, u, m, 1, units, S.memory), first, mask=_inside(b, u, m, batch, units, S.memory))
    if S.filtered:
        j = tl.arange(0, S.branch_rows)
        at = _place(b, 0, u, j, 1, units, S.branches)
        tl.store(branch + at, second, mask=_inside(b, u, j, batch, units, S.branches))
    if S.highpassed:
        at = _place(b, 0, u, y, 1, units, S.outputs)
        tl.store(slow + at, third, mask=_inside(b, u, y, batch, units, S.outputs))


@triton.jit
def _wait(counter, done, programs, S: tl.constexpr):
    """Until all threads have done this step and, where programs wait, all programs of this tile of sequences: they must
    all be resident, or none returns."""
    tl.debug_barrier()  # every thread's stores come before the release
    if S.barrier:
        own = counter + tl.program_id(1)
        tl.atomic_add(own, 1, sem="acq_rel", scope="gpu")
        while tl.atomic_add(own, 0, sem="acquire", scope="gpu") < done * programs:
            pass
        tl.debug_barrier()


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def forward(
    branch, hidden, mlp, memory, readout, drive, out,  # (B, T, N, ·); all but branch and out may be None
    state_memory, state_branch, state_highpass,  # (B, N, ·), read and overwritten
    heard,  # (2, N·n_y, B) the activity others hear, of even and odd steps; None: nobody listens
    sources, synapse,  # (N, d_tree, per_branch) recurrent synapses, sources in 0..N·n_y, -1: none
    weight1, bias1, weight2, bias2, readout_weight, bias, decay, gain,
    mask_recurrent, mask_synapse, mask_memory, lengths, counter,
    batch, steps, units, begin, end, blocks, programs, per_branch,
    input_scale, branch_decay, highpass_decay, highpass_rest,
    S: tl.constexpr,
):  # fmt: skip
    """Steps begin..end. The grid is (programs for the units, tiles of sequences)."""
    b = tl.program_id(1) * S.lanes + tl.arange(0, S.lanes)
    if S.wide:
        b = b.to(tl.int64)
    start = tl.program_id(0)
    if S.kept:
        u = start * S.block + tl.arange(0, S.block)
        matrices = _matrices(u, units, weight1, weight2, S)
        state = _load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
        for t in range(begin, end):
            state = _forward_step(
                t, u, b, matrices, state,
                branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
                bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest, S,
            )  # fmt: skip
            _wait(counter, t - begin + 1, programs, S)
        _store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
    else:
        for t in range(begin, end):
            for block in range(start, blocks, programs):
                u = block * S.block + tl.arange(0, S.block)
                matrices = _matrices(u, units, weight1, weight2, S)
                state = _load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
                state = _forward_step(
                    t, u, b, matrices, state,
                    branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
                    bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                    batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest, S,
                )  # fmt: skip
                _store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
            _wait(counter, t - begin + 1, programs, S)


@triton.jit
def _matrices_back(u, units, weight1, weight2, S: tl.constexpr):
    """The transposes that the way back multiplies with."""
    j, m, h = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows), tl.arange(0, S.hidden_rows)
    width: tl.constexpr = S.branches + S.memory
    if S.hidden > 0:
        size: tl.constexpr = S.hidden * width
        to_branch = _matrix(weight1, u, units, j, S.branches, 1, h, S.hidden, width, size, 0)
        to_memory = _matrix(weight1, u, units, m, S.memory, 1, h, S.hidden, width, size, S.branches)
        to_hidden = _matrix(weight2, u, units, h, S.hidden, 1, m, S.memory, S.hidden, S.memory * S.hidden, 0)
    else:
        size: tl.constexpr = S.memory * width
        to_branch = _matrix(weight2, u, units, j, S.branches, 1, m, S.memory, width, size, 0)
        to_memory = _matrix(weight2, u, units, m, S.memory, 1, m, S.memory, width, size, S.branches)
        to_hidden = to_memory  # not used
    return to_branch, to_memory, to_hidden


@triton.jit
def _told(told, slot, channel, there, b, batch, units, first, readers, synapse, mask_synapse, per_branch,
          S: tl.constexpr):  # fmt: skip
    """The gradient [u, 1, b] of what channels (u,) said, from all synapses that read them: a sum in fixed order."""
    low = tl.load(first + channel, mask=there, other=0)
    high = tl.load(first + channel + 1, mask=there, other=0)
    total = _zeros(S.block, S.readers, S.lanes)
    longest = tl.max(high - low, 0)
    k = 0
    while k < longest:
        entry = low[:, None] + k + tl.arange(0, S.readers)[None, :]
        real = entry < high[:, None]
        reader = tl.load(readers + entry, mask=real, other=0)
        weight = tl.load(synapse + reader, mask=real, other=0.0)[:, :, None]
        row = slot * units * S.branches + reader // per_branch
        both = real[:, :, None] & (b < batch)[None, None, :]
        g = tl.load(told + row[:, :, None] * batch + b[None, None, :], mask=both, other=0.0)
        if mask_synapse is not None:
            per_sequence = b[None, None, :] * units * S.branches * per_branch
            g *= tl.load(mask_synapse + per_sequence + reader[:, :, None], mask=both, other=0.0)
        total += weight * g
        k += S.readers
    return tl.sum(total, 1, keep_dims=True)


@triton.jit
def _backward_step(
    t, u, b, matrices, state,
    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, readers, synapse,
    readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
    batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain,
    S: tl.constexpr,
):  # fmt: skip
    """One step backwards. `state`: gradients of memory, filtered branches, high-pass after the step; returns those
    before it."""
    to_branch, to_memory, to_hidden = matrices
    d_memory, d_low, d_slow = state
    j, m = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows)
    h, y = tl.arange(0, S.hidden_rows), tl.arange(0, S.output_rows)
    at_j, in_j = _place(b, t, u, j, steps, units, S.branches), _inside(b, u, j, batch, units, S.branches)
    at_m, in_m = _place(b, t, u, m, steps, units, S.memory), _inside(b, u, m, batch, units, S.memory)
    at_y, in_y = _place(b, t, u, y, steps, units, S.outputs), _inside(b, u, y, batch, units, S.outputs)
    live = (t < tl.load(lengths + b, mask=b < batch, other=0))[None, None, :]
    live_m, live_y = live & in_m, live & in_y

    d_a = tl.load(g_out + at_y, mask=live_y, other=0.0)
    if told is not None:
        heard = _zeros(S.block, S.output_rows, S.lanes)
        for i in range(S.outputs):
            channel = u * S.outputs + i
            g = _told(told, (t + 1) % 2, channel, u < units, b, batch, units, first, readers, synapse, mask_synapse,
                      per_branch, S)  # fmt: skip
            heard += tl.where((y == i)[None, :, None], g, 0.0)
        heard *= input_scale
        if mask_recurrent is not None:
            heard *= tl.load(mask_recurrent + _place(b, 0, u, y, 1, units, S.outputs), mask=in_y, other=0.0)
        d_a += tl.where(live_y, heard, 0.0)

    v = tl.load(drive + at_y, mask=live_y, other=0.0)
    if S.activation == 0:
        d_drive = d_a
    elif S.activation == 1:
        d_drive = tl.where(v > 0, d_a, 0.0)
    else:
        steep = 100 * tl.abs(v) + 1
        d_drive = d_a * surrogate_gain / (steep * steep)
    d_read = d_drive
    if S.highpassed:
        d_faded = tl.where(live_y, d_slow - d_drive, 0.0)
        d_read += highpass_rest * d_faded
        d_slow = tl.where(live, highpass_decay * d_faded, d_slow)
    if g_readout is not None:
        d_read += tl.load(g_readout + at_y, mask=live_y, other=0.0)
    tl.store(b_drive + at_y, d_drive, mask=in_y)
    tl.store(b_readout + at_y, d_read, mask=in_y)

    if S.output_rows == 1:
        d_new = d_memory + _column(readout_weight, u, units, m, S.memory) * d_read
    else:
        size: tl.constexpr = S.outputs * S.memory
        rows = _matrix(readout_weight, u, units, m, S.memory, 1, y, S.outputs, S.memory, size, 0)
        d_new = d_memory + _times(rows, d_read)
    if g_memory is not None:
        d_new += tl.load(g_memory + at_m, mask=live_m, other=0.0)
    d_new = tl.where(live_m, d_new, 0.0)
    kept = tl.load(mlp + at_m, mask=live_m, other=0.0)
    if mask_memory is not None:
        scale = tl.load(mask_memory + _place(b, 0, u, m, 1, units, S.memory), mask=in_m, other=0.0)
        kept *= scale
    tanh = _tanh(kept * (2 / 3))
    absorbed = _column(gain, u, units, m, S.memory)
    d_update = d_new * absorbed * ((1.7159 * 2 / 3) * (1 - tanh * tanh))
    if mask_memory is not None:
        d_update *= scale
    if g_mlp is not None:
        d_update += tl.load(g_mlp + at_m, mask=live_m, other=0.0)
    tl.store(b_mlp + at_m, d_update, mask=in_m)
    if b_gain is not None:
        tl.store(b_gain + at_m, d_new, mask=in_m)

    if S.hidden > 0:
        at_h, in_h = _place(b, t, u, h, steps, units, S.hidden), _inside(b, u, h, batch, units, S.hidden)
        pre = tl.load(hidden + at_h, mask=live & in_h, other=0.0)
        d_first = _times(to_hidden, d_update) * _activate_back(pre, S.mlp_activation)
        tl.store(b_hidden + at_h, d_first, mask=in_h)
    else:
        d_first = d_update
    d_decayed = d_new + _times(to_memory, d_first)
    if b_decay is not None:
        tl.store(b_decay + at_m, d_decayed, mask=in_m)
    d_memory = tl.where(live, _column(decay, u, units, m, S.memory) * d_decayed, d_memory)

    d_x = _times(to_branch, d_first)
    if g_branch is not None:
        d_x += tl.load(g_branch + at_j, mask=live & in_j, other=0.0)
    if S.filtered:
        d_x = tl.where(live, d_x + d_low, 0.0)
        d_low = tl.where(live, branch_decay * d_x, d_low)
    tl.store(b_branch + at_j, d_x, mask=in_j)
    if told is not None:
        to = (t % 2) * units * S.branches + u[:, None, None] * S.branches + j[None, :, None]
        tl.store(told + to * batch + b[None, None, :], d_x, mask=in_j)
    return d_memory, d_low, d_slow


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def backward(
    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,  # (B, T, N, ·); gradients that come in
    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay,  # (B, T, N, ·); gradients that go out
    state_memory, state_branch, state_highpass,  # (B, N, ·) gradients of the state, read and overwritten
    told,  # (2, N·d_tree, B) gradients of the branches, of even and odd steps; None: nobody listens
    first, readers, synapse,  # the synapses that read a channel: readers[first[c]:first[c+1]], indices in (N·k_c,)
    weight1, weight2, readout_weight, decay, gain,
    mask_recurrent, mask_synapse, mask_memory, lengths, counter,
    batch, steps, units, begin, end, blocks, programs, per_branch,
    input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain,
    S: tl.constexpr,
):  # fmt: skip
    """Steps `steps`-1-begin down to `steps`-end. The grid as in `forward`."""
    b = tl.program_id(1) * S.lanes + tl.arange(0, S.lanes)
    if S.wide:
        b = b.to(tl.int64)
    start = tl.program_id(0)
    if S.kept:
        u = start * S.block + tl.arange(0, S.block)
        matrices = _matrices_back(u, units, weight1, weight2, S)
        state = _load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
        for i in range(begin, end):
            state = _backward_step(
                steps - 1 - i, u, b, matrices, state,
                hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
                b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, readers, synapse,
                readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                batch, steps, units, per_branch,
                input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain, S,
            )  # fmt: skip
            _wait(counter, i - begin + 1, programs, S)
        _store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
    else:
        for i in range(begin, end):
            for block in range(start, blocks, programs):
                u = block * S.block + tl.arange(0, S.block)
                matrices = _matrices_back(u, units, weight1, weight2, S)
                state = _load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
                state = _backward_step(
                    steps - 1 - i, u, b, matrices, state,
                    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
                    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, readers, synapse,
                    readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                    batch, steps, units, per_branch,
                    input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain, S,
                )  # fmt: skip
                _store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
            _wait(counter, i - begin + 1, programs, S)


# What does not recur: the feed-forward drive before the loop, gradients of synapses and sources after it.


@triton.jit(do_not_specialize=["rows", "steps", "inputs", "count"])
def feed(x, connectome, synapse, mask_synapse, branch, rows, steps, inputs, count, input_scale,
         SYNAPSES: tl.constexpr, ROWS: tl.constexpr, BRANCHES: tl.constexpr):  # fmt: skip
    """x (B·T, n_in) → branch (B·T, count = N·d_tree), what input synapses bring."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1) * BRANCHES + tl.arange(0, BRANCHES)
    there = n < count
    inside = (r < rows)[:, None] & there[None, :]
    total = tl.zeros((ROWS, BRANCHES), tl.float32)
    for s in range(SYNAPSES):
        k = n.to(tl.int64) * SYNAPSES + s
        source = tl.load(connectome + k, mask=there, other=-1)
        weight = tl.load(synapse + k, mask=there, other=0.0)
        real = inside & ((source >= 0) & (source < inputs))[None, :]
        a = tl.load(x + r.to(tl.int64)[:, None] * inputs + source[None, :], mask=real, other=0.0)
        if mask_synapse is not None:
            sequence = (r // steps).to(tl.int64)[:, None] * count * SYNAPSES
            a *= tl.load(mask_synapse + sequence + k[None, :], mask=real, other=0.0)
        total += weight[None, :] * a
    tl.store(branch + r.to(tl.int64)[:, None] * count + n[None, :], input_scale * total, mask=inside)


@triton.jit(do_not_specialize=["rows", "steps", "channels", "count", "share"])
def synapse_gradient(table, b_branch, connectome, mask_synapse, partial, rows, steps, channels, count, share,
                     input_scale, SYNAPSES: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """table (B·T, channels) of what synapses saw, b_branch (B·T, count) → partial (shares, count·SYNAPSES)."""
    k = tl.program_id(0) * LANES + tl.arange(0, LANES)
    size = count.to(tl.int64) * SYNAPSES
    there = k < size
    source = tl.load(connectome + k, mask=there, other=-1)
    total = tl.zeros((LANES,), tl.float32)
    row = tl.program_id(1).to(tl.int64) * share
    end = tl.minimum(row + share, rows)
    while row < end:
        g = tl.load(b_branch + row * count + k // SYNAPSES, mask=there, other=0.0)
        a = tl.load(table + row * channels + source, mask=there & (source >= 0), other=0.0)
        if mask_synapse is not None:
            a *= tl.load(mask_synapse + (row // steps) * size + k, mask=there, other=0.0)
        total += g * a
        row += 1
    tl.store(partial + tl.program_id(1) * size + k, input_scale * total, mask=there)


@triton.jit(do_not_specialize=["steps", "channels", "count"])
def source_gradient(b_branch, first, readers, synapse, mask_synapse, out, steps, channels, count, input_scale,
                    SYNAPSES: tl.constexpr, CHANNELS: tl.constexpr, READERS: tl.constexpr):  # fmt: skip
    """b_branch (rows, count) → out (rows, channels): the gradient of every channel from the synapses that read it."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    low = tl.load(first + c, mask=c < channels, other=0)
    high = tl.load(first + c + 1, mask=c < channels, other=0)
    longest = tl.max(high - low, 0)
    total = tl.zeros((CHANNELS, READERS), tl.float32)
    k = 0
    while k < longest:
        entry = low[:, None] + k + tl.arange(0, READERS)[None, :]
        real = entry < high[:, None]
        reader = tl.load(readers + entry, mask=real, other=0).to(tl.int64)
        g = tl.load(b_branch + row * count + reader // SYNAPSES, mask=real, other=0.0)
        g *= tl.load(synapse + reader, mask=real, other=0.0)
        if mask_synapse is not None:
            sequence = (row // steps) * count * SYNAPSES
            g *= tl.load(mask_synapse + sequence + reader, mask=real, other=0.0)
        total += g
        k += READERS
    tl.store(out + row * channels + c, input_scale * tl.sum(total, 1), mask=c < channels)
