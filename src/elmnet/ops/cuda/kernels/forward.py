"""One time step of a block of units for a tile of sequences, and the kernel that takes many."""

import triton
import triton.language as tl

from elmnet.ops.cuda.kernels.tile import (
    NOT_SPECIALISED,
    arrive,
    column,
    inside,
    load_state,
    matrix,
    of_lists,
    place,
    relu,
    slot,
    store_state,
    tanh,
    times,
    wait,
)


@triton.jit
def _activate(h, kind: tl.constexpr):
    """The MLP's activation: ReLU², ReLU, SiLU."""
    if kind == 0:
        positive = relu(h)
        return positive * positive
    elif kind == 1:
        return relu(h)
    else:
        return h * tl.sigmoid(h)


@triton.jit
def _matrices(u, units, weight1, weight2, S: tl.constexpr):
    """What a block of units multiplies with on the way forward: the first affine map, cut into the part that reads the
    branches and the part that reads the memory, and the second. The compiler keeps them in shared memory; vectors are
    read at every step, since in registers they crowd out the rest."""
    j, m, h = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows), tl.arange(0, S.hidden_rows)
    width: tl.constexpr = S.branches + S.memory
    if S.hidden > 0:
        size: tl.constexpr = S.hidden * width
        of_branch = matrix(weight1, u, units, h, S.hidden, width, j, S.branches, 1, size, 0)
        of_memory = matrix(weight1, u, units, h, S.hidden, width, m, S.memory, 1, size, S.branches)
        second = matrix(weight2, u, units, m, S.memory, S.hidden, h, S.hidden, 1, S.memory * S.hidden, 0)
    else:
        size: tl.constexpr = S.memory * width
        of_branch = matrix(weight2, u, units, m, S.memory, width, j, S.branches, 1, size, 0)
        of_memory = matrix(weight2, u, units, m, S.memory, width, m, S.memory, 1, size, S.branches)
        second = of_memory  # not used
    return of_branch, of_memory, second


@triton.jit
def _step(
    t, u, b, matrices, state,
    branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
    bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
    counter, batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest,
    S: tl.constexpr,
):  # fmt: skip
    """One step; `branch` holds the feed-forward drive and becomes the branches. Returns the new state."""
    of_branch, of_memory, second = matrices
    before, low, slow = state  # memory, filtered branches, high-pass
    j, m = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows)
    h, y = tl.arange(0, S.hidden_rows), tl.arange(0, S.output_rows)
    at_j, in_j = place(b, t, u, j, steps, units, S.branches), inside(b, u, j, batch, units, S.branches)
    at_m, in_m = place(b, t, u, m, steps, units, S.memory), inside(b, u, m, batch, units, S.memory)
    at_y, in_y = place(b, t, u, y, steps, units, S.outputs), inside(b, u, y, batch, units, S.outputs)
    live = (t < tl.load(lengths + b, mask=b < batch, other=0))[None, None, :]

    # asked for before what others said, so that it comes while that is gathered
    x = tl.load(branch + at_j, mask=in_j, other=0.0)
    kept, absorbed = column(decay, u, units, m, S.memory), column(gain, u, units, m, S.memory)
    offset, threshold = column(bias2, u, units, m, S.memory), column(bias, u, units, y, S.outputs)
    if S.hidden > 0:
        offset1 = column(bias1, u, units, h, S.hidden)
    if S.output_rows == 1:
        reading = column(readout_weight, u, units, m, S.memory)
    if heard is not None:
        n, there = u[:, None] * S.branches + j[None, :], (u < units)[:, None] & (j < S.branches)[None, :]
        x += input_scale * of_lists(
            slot(heard, t, units * S.outputs + 1, S), n, there, sources, synapse, mask_synapse, units * S.outputs,
            per_branch, units * S.branches, tl.program_id(1).to(tl.int64) * S.lanes, 1, batch,
            S.block, S.branch_rows, S.ahead, S.lanes,
        )  # fmt: skip
    if S.filtered:
        x += branch_decay * low
        low = tl.where(live, x, low)
    if memory is not None:
        tl.store(branch + at_j, x, mask=in_j)

    decayed = kept * before
    first = times(of_branch, x) + times(of_memory, decayed)
    if S.hidden > 0:
        first += offset1
        update = times(second, _activate(first, S.mlp_activation)) + offset
    else:
        update = first + offset
    taken = update
    if mask_memory is not None:
        taken *= tl.load(mask_memory + place(b, 0, u, m, 1, units, S.memory), mask=in_m, other=0.0)
    new = tl.where(live, decayed + absorbed * (1.7159 * tanh(taken * (2 / 3))), before)
    if S.output_rows == 1:
        read = tl.sum(reading * new, 1, keep_dims=True)
    else:
        size: tl.constexpr = S.outputs * S.memory
        rows = matrix(readout_weight, u, units, y, S.outputs, S.memory, m, S.memory, 1, size, 0)
        read = times(rows, new)
    v = read + threshold
    if S.highpassed:
        faded = highpass_decay * slow + highpass_rest * read
        v -= faded
        slow = tl.where(live, faded, slow)
    if S.activation == 0:
        a = v
    elif S.activation == 1:
        a = relu(v)
    else:
        a = tl.where(v > 0, 1.0, 0.0)
    a = tl.where(live, a, 0.0)

    if heard is not None:
        said = a
        if mask_recurrent is not None:
            said *= tl.load(mask_recurrent + place(b, 0, u, y, 1, units, S.outputs), mask=in_y, other=0.0)
        row = u[:, None, None] * S.outputs + y[None, :, None]
        to = slot(heard, t + 1, units * S.outputs + 1, S) + (row * S.lanes + tl.arange(0, S.lanes)[None, None, :])
        tl.store(to, said, mask=(u < units)[:, None, None] & (y < S.outputs)[None, :, None])
    if S.kept:
        arrive(counter, S)
    # what nobody waits for
    tl.store(out + at_y, a, mask=in_y)
    if memory is not None:
        if S.hidden > 0:
            at_h = place(b, t, u, h, steps, units, S.hidden)
            tl.store(hidden + at_h, first, mask=inside(b, u, h, batch, units, S.hidden))
        tl.store(mlp + at_m, update, mask=in_m)
        tl.store(memory + at_m, new, mask=in_m)
        tl.store(readout + at_y, read, mask=in_y)
        tl.store(drive + at_y, v, mask=in_y)
    return new, low, slow


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def forward(
    branch, hidden, mlp, memory, readout, drive, out,  # (B, T, N, ·); all but branch and out may be None
    state_memory, state_branch, state_highpass,  # (B, N, ·), read and overwritten
    heard,  # (2, tiles, N·n_y + 1, lanes) what others hear, of even and odd steps, the last zeros; None: nobody listens
    sources, synapse,  # (per_branch, N, d_tree) recurrent synapses: what they read, 0..N·n_y (none), and weight
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
        state = load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
        for t in range(begin, end):
            state = _step(
                t, u, b, matrices, state,
                branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
                bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                counter, batch, steps, units, per_branch,
                input_scale, branch_decay, highpass_decay, highpass_rest, S,
            )  # fmt: skip
            wait(counter, t - begin + 1, programs, S)
        store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
    else:
        for t in range(begin, end):
            for block in range(start, blocks, programs):
                u = block * S.block + tl.arange(0, S.block)
                matrices = _matrices(u, units, weight1, weight2, S)
                state = load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
                state = _step(
                    t, u, b, matrices, state,
                    branch, hidden, mlp, memory, readout, drive, out, heard, sources, synapse,
                    bias1, bias2, readout_weight, bias, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths,
                    counter, batch, steps, units, per_branch,
                    input_scale, branch_decay, highpass_decay, highpass_rest, S,
                )  # fmt: skip
                store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
            arrive(counter, S)
            wait(counter, t - begin + 1, programs, S)
