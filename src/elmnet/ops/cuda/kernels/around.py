"""What does not recur: the feed-forward drive before the loop, gradients of synapses and sources after it."""

import triton
import triton.language as tl


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
