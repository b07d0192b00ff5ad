"""One time step backwards, and the kernel that takes many."""

import triton
import triton.language as tl

from elmnet.ops.cuda.kernels.tile import (
    NOT_SPECIALISED,
    arrive,
    column,
    inside,
    load_state,
    matrix,
    of_readers,
    place,
    relu,
    slot,
    store_state,
    tanh,
    times,
    wait,
    zeros,
)


@triton.jit
def _activate_back(h, kind: tl.constexpr):
    """Derivative of the MLP's activation."""
    if kind == 0:
        return 2 * relu(h)
    elif kind == 1:
        return tl.where(h > 0, 1.0, 0.0)
    else:
        s = tl.sigmoid(h)
        return s * (1 + h * (1 - s))


@triton.jit
def _matrices(u, units, weight1, weight2, S: tl.constexpr):
    """The transposes that the way back multiplies with."""
    j, m, h = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows), tl.arange(0, S.hidden_rows)
    width: tl.constexpr = S.branches + S.memory
    if S.hidden > 0:
        size: tl.constexpr = S.hidden * width
        to_branch = matrix(weight1, u, units, j, S.branches, 1, h, S.hidden, width, size, 0)
        to_memory = matrix(weight1, u, units, m, S.memory, 1, h, S.hidden, width, size, S.branches)
        to_hidden = matrix(weight2, u, units, h, S.hidden, 1, m, S.memory, S.hidden, S.memory * S.hidden, 0)
    else:
        size: tl.constexpr = S.memory * width
        to_branch = matrix(weight2, u, units, j, S.branches, 1, m, S.memory, width, size, 0)
        to_memory = matrix(weight2, u, units, m, S.memory, 1, m, S.memory, width, size, S.branches)
        to_hidden = to_memory  # not used
    return to_branch, to_memory, to_hidden


@triton.jit
def _step(
    t, u, b, matrices, state,
    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, rows, weights, readers,
    readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths, counter,
    batch, steps, units, per_branch, input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain,
    S: tl.constexpr,
):  # fmt: skip
    """One step backwards. `state`: gradients of memory, filtered branches, high-pass after the step; returns those
    before it."""
    to_branch, to_memory, to_hidden = matrices
    d_memory, d_low, d_slow = state
    j, m = tl.arange(0, S.branch_rows), tl.arange(0, S.memory_rows)
    h, y = tl.arange(0, S.hidden_rows), tl.arange(0, S.output_rows)
    at_j, in_j = place(b, t, u, j, steps, units, S.branches), inside(b, u, j, batch, units, S.branches)
    at_m, in_m = place(b, t, u, m, steps, units, S.memory), inside(b, u, m, batch, units, S.memory)
    at_y, in_y = place(b, t, u, y, steps, units, S.outputs), inside(b, u, y, batch, units, S.outputs)
    at_h, in_h = place(b, t, u, h, steps, units, S.hidden), inside(b, u, h, batch, units, S.hidden)
    live = (t < tl.load(lengths + b, mask=b < batch, other=0))[None, None, :]
    live_m, live_y = live & in_m, live & in_y

    # asked for before what others tell, so that it comes while that is gathered
    d_a = tl.load(g_out + at_y, mask=live_y, other=0.0)
    v = tl.load(drive + at_y, mask=live_y, other=0.0)
    if S.early:
        taken = tl.load(mlp + at_m, mask=live_m, other=0.0)
        if S.hidden > 0:
            pre = tl.load(hidden + at_h, mask=live & in_h, other=0.0)
    kept, absorbed = column(decay, u, units, m, S.memory), column(gain, u, units, m, S.memory)
    if S.output_rows == 1:
        reading = column(readout_weight, u, units, m, S.memory)
    if told is not None:
        heard = zeros(S.block, S.output_rows, S.lanes)
        for i in range(S.outputs):
            channel = u * S.outputs + i
            g = of_readers(
                slot(told, t + 1, units * S.branches + 1, S), channel, u < units, first, rows, weights, readers,
                mask_synapse, units * S.branches, units * S.branches * per_branch,
                tl.program_id(1).to(tl.int64) * S.lanes, 1, batch, S.block, S.readers, S.ahead, S.lanes,
            )  # fmt: skip
            heard += tl.where((y == i)[None, :, None], g, 0.0)
        heard *= input_scale
        if mask_recurrent is not None:
            heard *= tl.load(mask_recurrent + place(b, 0, u, y, 1, units, S.outputs), mask=in_y, other=0.0)
        d_a += tl.where(live_y, heard, 0.0)

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

    if S.output_rows == 1:
        d_new = d_memory + reading * d_read
    else:
        size: tl.constexpr = S.outputs * S.memory
        readings = matrix(readout_weight, u, units, m, S.memory, 1, y, S.outputs, S.memory, size, 0)
        d_new = d_memory + times(readings, d_read)
    if g_memory is not None:
        d_new += tl.load(g_memory + at_m, mask=live_m, other=0.0)
    d_new = tl.where(live_m, d_new, 0.0)
    if not S.early:
        taken = tl.load(mlp + at_m, mask=live_m, other=0.0)
    if mask_memory is not None:
        scale = tl.load(mask_memory + place(b, 0, u, m, 1, units, S.memory), mask=in_m, other=0.0)
        taken *= scale
    bent = tanh(taken * (2 / 3))
    d_update = d_new * absorbed * ((1.7159 * 2 / 3) * (1 - bent * bent))
    if mask_memory is not None:
        d_update *= scale
    if g_mlp is not None:
        d_update += tl.load(g_mlp + at_m, mask=live_m, other=0.0)
    tl.store(b_drive + at_y, d_drive, mask=in_y)
    tl.store(b_readout + at_y, d_read, mask=in_y)
    tl.store(b_mlp + at_m, d_update, mask=in_m)
    if S.hidden > 0:
        if not S.early:
            pre = tl.load(hidden + at_h, mask=live & in_h, other=0.0)
        d_first = times(to_hidden, d_update) * _activate_back(pre, S.mlp_activation)
        tl.store(b_hidden + at_h, d_first, mask=in_h)
    else:
        d_first = d_update
    d_x = times(to_branch, d_first)
    if g_branch is not None:
        d_x += tl.load(g_branch + at_j, mask=live & in_j, other=0.0)
    if S.filtered:
        d_x = tl.where(live, d_x + d_low, 0.0)
        d_low = tl.where(live, branch_decay * d_x, d_low)

    if told is not None:
        row = u[:, None, None] * S.branches + j[None, :, None]
        to = slot(told, t, units * S.branches + 1, S) + (row * S.lanes + tl.arange(0, S.lanes)[None, None, :])
        tl.store(to, d_x, mask=(u < units)[:, None, None] & (j < S.branches)[None, :, None])
    if S.kept:
        arrive(counter, S)
    # what nobody waits for
    d_decayed = d_new + times(to_memory, d_first)
    d_memory = tl.where(live, kept * d_decayed, d_memory)
    tl.store(b_branch + at_j, d_x, mask=in_j)
    if b_gain is not None:
        tl.store(b_gain + at_m, d_new, mask=in_m)
    if b_decay is not None:
        tl.store(b_decay + at_m, d_decayed, mask=in_m)
    return d_memory, d_low, d_slow


@triton.jit(do_not_specialize=NOT_SPECIALISED)
def backward(
    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,  # (B, T, N, ·); gradients that come in
    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay,  # (B, T, N, ·); gradients that go out
    state_memory, state_branch, state_highpass,  # (B, N, ·) gradients of the state, read and overwritten
    told,  # (2, tiles, N·d_tree + 1, lanes) gradients of branches as `heard` of `forward`; None: nobody listens
    first, rows, weights, readers,  # branch, weight and number of synapses; first[c]:first[c + 1] read channel c
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
        matrices = _matrices(u, units, weight1, weight2, S)
        state = load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
        for i in range(begin, end):
            state = _step(
                steps - 1 - i, u, b, matrices, state,
                hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
                b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, rows, weights, readers,
                readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths, counter,
                batch, steps, units, per_branch,
                input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain, S,
            )  # fmt: skip
            wait(counter, i - begin + 1, programs, S)
        store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
    else:
        for i in range(begin, end):
            for block in range(start, blocks, programs):
                u = block * S.block + tl.arange(0, S.block)
                matrices = _matrices(u, units, weight1, weight2, S)
                state = load_state(state_memory, state_branch, state_highpass, b, u, batch, units, S)
                state = _step(
                    steps - 1 - i, u, b, matrices, state,
                    hidden, mlp, drive, g_out, g_branch, g_mlp, g_memory, g_readout,
                    b_branch, b_hidden, b_mlp, b_readout, b_drive, b_gain, b_decay, told, first, rows, weights, readers,
                    readout_weight, decay, gain, mask_recurrent, mask_synapse, mask_memory, lengths, counter,
                    batch, steps, units, per_branch,
                    input_scale, branch_decay, highpass_decay, highpass_rest, surrogate_gain, S,
                )  # fmt: skip
                store_state(state, state_memory, state_branch, state_highpass, b, u, batch, units, S)
            arrive(counter, S)
            wait(counter, i - begin + 1, programs, S)
