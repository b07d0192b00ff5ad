// One time step of one sequence, as in deployment: no batch to fill the lanes, so they run along branches and rows.
//
// At batch 1 every weight is used once a step, so a step takes as long as reading the weights does. They are packed
// beforehand, unit after unit in the order of their use, into one stream that the machine reads ahead by itself:
//
//     where each synapse reads (d_s, branches): 16-bit numbers where they suffice
//     synapse (d_s, branches) | bias1, weight1 (d_mlp, d_tree + d_m) | bias2, weight2 (d_m, fan) | decay, gain |
//     read-out (n_y, d_m), its bias
//
// Branches come in groups of 16, the last ones in groups of 4; rows are filled up with zeros to whole registers.
#pragma once
#include <cstdlib>

#include "layer.h"

// out (rows) = start + a (rows, columns) · z (columns); W rows at a time, so that their sums are taken together.
template <class R> static INLINE void rows_times(R *out, int64_t rows, const R *start, const R *a, const R *z, int64_t columns) {
    constexpr int64_t W = Wide<R>::W;
    for (int64_t first = 0; first < rows; first += W) {
        const int64_t last = rows - first < W ? rows - first - 1 : W - 1; // rows past the end repeat it
        Wide<R> sum[W];
#pragma GCC unroll 16
        for (int64_t i = 0; i < W; i++) sum[i] = Wide<R>::all(0);
        for (int64_t k = 0; k < columns; k += W) {
            Wide<R> x = Wide<R>::load(z + k);
#pragma GCC unroll 16
            for (int64_t i = 0; i < W; i++)
                sum[i] = add_product(sum[i], Wide<R>::load(a + (first + (i < last ? i : last)) * columns + k), x);
        }
        (sums<R>(sum) + Wide<R>::load(start + first)).store(out + first);
    }
}

// Of one layer. R: the numbers. I: what numbers the channels a synapse may read, silence among them.
template <class R, class I> struct Step {
    static constexpr int64_t W = Wide<R>::W, room = 16; // rows are filled up to `room`, a multiple of every W
    const Call &c;
    const int64_t n_in, N, D, K, M, H, Y, S, fan;
    const int64_t taken, inputs, affine;   // branches with their fillers; rows of [branch | memory]; of the last map
    const int64_t indices, numbers, bytes; // of a unit's record: bytes of the first part, numbers of the second, all

    explicit Step(const Call &c)
        : c(c), n_in(c.inputs), N(c.units), D(c.branches), K(c.synapses), M(c.memory), H(c.hidden), Y(c.outputs),
          S(N * Y), fan(H ? H : D + M), taken((D + 3) / 4 * 4), inputs(whole(D + M)), affine(whole(fan)),
          indices((taken * K * (int64_t)sizeof(I) + 63) / 64 * 64),
          numbers(whole(taken * K) + whole(H) + H * inputs + whole(M) + M * affine + 2 * whole(M) + whole(Y * M) + whole(Y)),
          bytes(indices + (numbers * (int64_t)sizeof(R) + 63) / 64 * 64) {}

    static int64_t whole(int64_t count) { return (count + room - 1) / room * room; }
    // Branches of the group that begins at j.
    int64_t group(int64_t j) const { return taken - j < 16 ? 4 : 16; }

    // Fill c.packed; returns its bytes, which is all that is done where it is null.
    int64_t pack() const {
        if (!c.packed) return N * bytes;
        memset(c.packed, 0, N * bytes);
        for (int64_t n = 0; n < N; n++) {
            I *source = (I *)((char *)c.packed + n * bytes);
            R *to = (R *)((char *)source + indices), *synapse = to;
            for (int64_t first = 0; first < taken; first += group(first))
                for (int64_t k = 0; k < K; k++)
                    for (int64_t j = first; j < first + group(first); j++) {
                        int64_t place = (n * D + j) * K + k, from = j < D ? c.connectome[place] : -1;
                        *source++ = (I)(from < 0 ? n_in + S : from);
                        *synapse++ = from < 0 ? R(0) : (R)c.input_scale * ((const R *)c.synapse)[place];
                    }
            to += whole(taken * K);
            if (H) to = rows(rows(to, c.bias1, n, 1, H), c.weight1, n, H, D + M);
            to = rows(rows(to, c.bias2, n, 1, M), c.weight2, n, M, fan);
            to = rows(rows(to, c.decay, n, 1, M), c.gain, n, 1, M);
            rows(rows(to, c.readout, n, 1, Y * M), c.bias, n, 1, Y);
        }
        return N * bytes;
    }

    static R *rows(R *to, const void *all, int64_t n, int64_t rows, int64_t columns) {
        const R *from = (const R *)all + n * rows * columns;
        for (int64_t i = 0; i < rows; i++, to += whole(columns)) memcpy(to, from + i * columns, columns * sizeof(R));
        return to;
    }

    // Make the step. Each member's own memory: [branch | decayed memory], hidden, MLP output; `table` is what synapses
    // read: input, activity, silence.
    int64_t run() const {
        const int64_t own = inputs + whole(H) + whole(M), heard = whole(n_in + S + 1);
        const int64_t threads = c.threads < Team::LIMIT ? c.threads : Team::LIMIT;
        R *table = (R *)aligned_alloc(64, (heard + threads * own) * sizeof(R));
        if (!table) return -2;
        memcpy(table, c.x, n_in * sizeof(R));
        memcpy(table + n_in, c.activity0, S * sizeof(R));
        table[n_in + S] = 0;
        Team team(threads);
        auto work = [&](int64_t member) {
            R *z = table + heard + member * own;
            memset(z, 0, own * sizeof(R));
            Range units = share(N, team.size, member);
            for (int64_t n = units.begin; n < units.end; n++) unit(n, table, z);
        };
        team.run(work);
        free(table);
        return 0;
    }

  private:
    template <class Function> static INLINE void each(R *values, int64_t count, Function function) {
        for (int64_t i = 0; i < count; i += W) function(Wide<R>::load(values + i)).store(values + i);
    }

    INLINE void unit(int64_t n, const R *table, R *z) const {
        R *hidden = z + inputs, *update = hidden + whole(H);
        const I *source = (const I *)((const char *)c.packed + n * bytes);
        const R *weight = (const R *)((const char *)source + indices);
        int64_t j = 0;
        for (; j + 16 <= taken; j += 16) branches<16>(z + j, source + j * K, weight + j * K, table);
        for (; j < taken; j += 4) branches<4>(z + j, source + j * K, weight + j * K, table);
        weight += whole(taken * K);
        const R *bias1 = weight, *weight1 = bias1 + whole(H), *bias2 = weight1 + H * inputs, *weight2 = bias2 + whole(M);
        const R *decay = weight2 + M * affine, *gain = decay + whole(M), *readout = gain + whole(M);
        const R *bias = readout + whole(Y * M);

        if (c.filtered)
            for (int64_t i = 0; i < D; i++)
                ((R *)c.branch1)[n * D + i] = z[i] += (R)c.branch_decay * ((const R *)c.branch0)[n * D + i];
        const R *before = (const R *)c.memory0 + n * M;
        for (int64_t k = 0; k < M; k++) z[D + k] = decay[k] * before[k];
        if (H) {
            rows_times(hidden, H, bias1, weight1, z, inputs);
            each(hidden, H, [&](Wide<R> h) { return mlp_activation(c.mlp_activation, h); });
            for (int64_t i = H; i < affine; i++) hidden[i] = 0;
        }
        rows_times(update, M, bias2, weight2, H ? hidden : z, affine);
        each(update, M, [](Wide<R> u) { return R(COMPRESS_HEIGHT) * tanh(R(COMPRESS_SLOPE) * u); });
        R *after = (R *)c.memory1 + n * M;
        for (int64_t k = 0; k < M; k++) after[k] = z[D + k] + gain[k] * update[k];
        for (int64_t o = 0; o < Y; o++) {
            const int64_t channel = n * Y + o;
            R y = 0;
            for (int64_t k = 0; k < M; k++) y += readout[o * M + k] * after[k];
            R u = y + bias[o];
            if (c.highpassed) {
                R slow = R(c.highpass_decay) * ((const R *)c.highpass0)[channel] + R(1 - c.highpass_decay) * y;
                ((R *)c.highpass1)[channel] = slow;
                u -= slow;
            }
            if (c.activation == RELU_OUT) u = u <= 0 ? R(0) : u;
            if (c.activation == SPIKE) u = u > 0 ? R(1) : R(0);
            ((R *)c.activity1)[channel] = u;
        }
    }

    // The sums of `Group` branches side by side.
    template <int Group> INLINE void branches(R *out, const I *source, const R *weight, const R *table) const {
        R sum[Group] = {};
        for (int64_t k = 0; k < K; k++, source += Group, weight += Group)
#pragma GCC unroll 16
            for (int i = 0; i < Group; i++) sum[i] += weight[i] * table[source[i]];
        for (int i = 0; i < Group; i++) out[i] = sum[i];
    }
};
