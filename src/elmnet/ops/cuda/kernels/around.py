"""What does not recur: the feed-forward drive before the loop, gradients of synapses and sources after it.

A line is one step of one sequence. Tables (chunks, ·, 16) hold sixteen lines side by side, as those inside the loop
hold the sequences of a tile; their last row is zeros, for synapses that read nothing.
"""

import triton
import triton.language as tl

from elmnet.ops.cuda.kernels.tile import of_lists, of_readers

LINES = tl.constexpr(16)


@triton.jit(do_not_specialize=["lines", "steps", "inputs", "count", "per_branch"])
def feed(table, sources, synapse, mask_synapse, branch, lines, steps, inputs, count, per_branch, input_scale,
         BRANCHES: tl.constexpr):  # fmt: skip
    """Table (chunks, n_in + 1, 16) of the input → branch (B·T, count = N·d_tree), what input synapses bring;
    `sources` and `synapse` are (per_branch, count)."""
    chunk = tl.program_id(0).to(tl.int64)
    n = (tl.program_id(1) * BRANCHES + tl.arange(0, BRANCHES))[None, :]
    there = n < count
    brought = of_lists(
        table + chunk * (inputs + 1) * LINES, n, there, sources, synapse, mask_synapse, inputs,
        per_branch, count, chunk * LINES, steps, lines, 1, BRANCHES, 4, LINES,
    )  # fmt: skip
    line = (chunk * LINES + tl.arange(0, LINES))[None, None, :]
    to = branch + line * count + n[:, :, None]
    tl.store(to, input_scale * brought, mask=(line < lines) & there[:, :, None])


@triton.jit(do_not_specialize=["lines", "steps", "channels", "count", "share"])
def synapse_gradient(table, b_branch, connectome, mask_synapse, partial, lines, steps, channels, count, share,
                     input_scale, SYNAPSES: tl.constexpr, SIDE: tl.constexpr, BRANCHES: tl.constexpr):  # fmt: skip
    """Table (chunks, channels + 1, 16) of what synapses saw, b_branch (B·T, count) → partial (shares, count·SYNAPSES),
    each of `share` chunks; a program does SIDE synapses of each of its branches."""
    n = tl.program_id(0) * BRANCHES + tl.arange(0, BRANCHES)
    s = tl.program_id(2) * SIDE + tl.arange(0, SIDE)
    there = (n < count)[:, None] & (s < SYNAPSES)[None, :]
    k = n.to(tl.int64)[:, None] * SYNAPSES + s[None, :]
    source = tl.load(connectome + k, mask=there, other=-1)
    source = tl.where(source < 0, channels, source)
    quad = tl.arange(0, LINES // 4)[:, None, None, None] * 4 + tl.arange(0, 4)[None, None, None, :]  # [p, n, s, q]
    total = tl.zeros((LINES // 4, BRANCHES, SIDE, 4), tl.float32)
    chunk = tl.program_id(1).to(tl.int64) * share
    end = tl.minimum(chunk + share, tl.cdiv(lines, LINES))
    while chunk < end:
        line = chunk * LINES + quad
        at = line * count + n[None, :, None, None]
        g = tl.load(b_branch + at, mask=(line < lines) & (n < count)[None, :, None, None], other=0.0)
        row = chunk * (channels + 1) + source
        a = tl.load(table + (row[None, :, :, None] * LINES + quad))
        if mask_synapse is not None:
            own = line // steps * count * SYNAPSES + k[None, :, :, None]
            a *= tl.load(mask_synapse + own, mask=(line < lines) & there[None, :, :, None], other=0.0)
        total += g * a
        chunk += 1
    to = partial + tl.program_id(1) * count.to(tl.int64) * SYNAPSES + k
    tl.store(to, input_scale * tl.sum(tl.sum(total, 3), 0), mask=there)


@triton.jit(do_not_specialize=["lines", "steps", "channels", "count", "synapses"])
def source_gradient(table, first, rows, weights, readers, mask_synapse, out, lines, steps, channels, count, synapses,
                    input_scale, CHANNELS: tl.constexpr, READERS: tl.constexpr):  # fmt: skip
    """Table (chunks, count + 1, 16) of the branches' gradients → out (lines, channels), the gradient of every channel
    from the synapses that read it, which are first[c]:first[c + 1] of rows, weights, readers."""
    chunk = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    found = of_readers(
        table + chunk * (count + 1) * LINES, c, c < channels, first, rows, weights, readers,
        mask_synapse, count, synapses, chunk * LINES, steps, lines, CHANNELS, READERS, 4, LINES,
    )  # fmt: skip
    line = (chunk * LINES + tl.arange(0, LINES))[None, None, :]
    to = out + line * channels + c[:, None, None]
    tl.store(to, input_scale * found, mask=(line < lines) & (c < channels)[:, None, None])
