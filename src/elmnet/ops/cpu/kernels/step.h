// One time step of one sequence, as in deployment: no batch to fill the lanes, so they run along a unit's own rows.
// Weights are read where they lie; nothing is packed.
#pragma once
#include <cstdlib>

#include "layer.h"

// out (rows) = start + a (rows, columns) · z (columns); W rows at a time, so that their sums are taken together.
template <class R> static INLINE void rows_times(R *out, int64_t rows, const R *start, const R *a, const R *z, int64_t columns) {
    constexpr int64_t W = Wide<R>::W;
    const int64_t whole = columns / W * W;
    for (int64_t first = 0; first < rows; first += W) {
        int64_t some = rows - first < W ? rows - first : W;
        Wide<R> sum[W];
#pragma GCC unroll 16
        for (int64_t i = 0; i < W; i++) sum[i] = Wide<R>::all(0);
        for (int64_t k = 0; k < whole; k += W) {
            Wide<R> x = Wide<R>::load_unaligned(z + k);
#pragma GCC unroll 16
            for (int64_t i = 0; i < W; i++) // rows past the end repeat the last
                sum[i] = add_product(sum[i], Wide<R>::load_unaligned(a + (first + (i < some ? i : some - 1)) * columns + k), x);
        }
        alignas(64) R total[W];
        sums<R>(sum).store(total);
        for (int64_t i = 0; i < some; i++) {
            R rest = start ? start[first + i] : R(0);
            for (int64_t k = whole; k < columns; k++) rest += a[(first + i) * columns + k] * z[k];
            out[first + i] = total[i] + rest;
        }
    }
}

template <class R> struct Step {
    static constexpr int64_t W = Wide<R>::W;
    const Call &c;
    const int64_t n_in, N, D, K, M, H, Y, S, fan;
    R *table;              // what synapses read: input, activity, silence
    R *local;              // each member's own: [branch | decayed memory], hidden, MLP output
    const int64_t own;
    Team team;

    explicit Step(const Call &c)
        : c(c), n_in(c.inputs), N(c.units), D(c.branches), K(c.synapses), M(c.memory), H(c.hidden), Y(c.outputs),
          S(N * Y), fan(H ? H : D + M), own((D + M) + H + M + 3 * W), team(c.threads) {
        table = (R *)malloc((n_in + S + 1 + c.threads * own) * sizeof(R));
        local = table + n_in + S + 1;
        if (!table) return;
        memcpy(table, c.x, n_in * sizeof(R));
        memcpy(table + n_in, c.activity0, S * sizeof(R));
        table[n_in + S] = 0;
    }
    ~Step() { free(table); }

    void operator()(int64_t member) {
        Range units = share(N, team.size, member);
        for (int64_t n = units.begin; n < units.end; n++) unit(n, local + member * own);
    }

    template <class Function> static INLINE void each(R *values, int64_t count, Function function) {
        for (int64_t i = 0; i < count; i += W)
            function(Wide<R>::load_unaligned(values + i)).store_unaligned(values + i);
    }

    INLINE void unit(int64_t n, R *z) {
        R *hidden = z + D + M + W, *update = hidden + H + W; // room for whole registers behind each
        synapses(n, z);
        if (c.filtered)
            for (int64_t j = 0; j < D; j++)
                ((R *)c.branch1)[n * D + j] = z[j] += (R)c.branch_decay * ((const R *)c.branch0)[n * D + j];
        const R *before = (const R *)c.memory0 + n * M, *decay = (const R *)c.decay + n * M;
        const R *gain = (const R *)c.gain + n * M;
        for (int64_t k = 0; k < M; k++) z[D + k] = decay[k] * before[k];
        const R *input = z;
        if (H) {
            rows_times(hidden, H, (const R *)c.bias1 + n * H, (const R *)c.weight1 + n * H * (D + M), z, D + M);
            each(hidden, H, [&](Wide<R> h) { return mlp_activation(c.mlp_activation, h); });
            input = hidden;
        }
        rows_times(update, M, (const R *)c.bias2 + n * M, (const R *)c.weight2 + n * M * fan, input, fan);
        each(update, M, [](Wide<R> u) { return R(COMPRESS_HEIGHT) * tanh(R(COMPRESS_SLOPE) * u); });
        R *after = (R *)c.memory1 + n * M;
        for (int64_t k = 0; k < M; k++) after[k] = z[D + k] + gain[k] * update[k];
        for (int64_t o = n * Y; o < (n + 1) * Y; o++) {
            const R *weight = (const R *)c.readout + o * M;
            R y = 0;
            for (int64_t k = 0; k < M; k++) y += weight[k] * after[k];
            R u = y + ((const R *)c.bias)[o];
            if (c.highpassed) {
                R slow = R(c.highpass_decay) * ((const R *)c.highpass0)[o] + R(1 - c.highpass_decay) * y;
                ((R *)c.highpass1)[o] = slow;
                u -= slow;
            }
            if (c.activation == RELU_OUT) u = u <= 0 ? R(0) : u;
            if (c.activation == SPIKE) u = u > 0 ? R(1) : R(0);
            ((R *)c.activity1)[o] = u;
        }
    }

    // Four branches side by side: each alone would wait for its own sum.
    INLINE void synapses(int64_t n, R *branch) {
        const int32_t *source = c.sources + n * D * K;
        const R *weight = (const R *)c.synapse + n * D * K, scale = (R)c.input_scale;
        int64_t j = 0;
        for (; j + 4 <= D; j += 4) {
            R sum[4] = {};
            for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; i++) sum[i] += weight[(j + i) * K + k] * table[source[(j + i) * K + k]];
            for (int64_t i = 0; i < 4; i++) branch[j + i] = scale * sum[i];
        }
        for (; j < D; j++) {
            R sum = 0;
            for (int64_t k = j * K; k < (j + 1) * K; k++) sum += weight[k] * table[source[k]];
            branch[j] = scale * sum;
        }
    }

    static int64_t run(const Call &call) {
        Step step(call);
        if (!step.table) return -2;
        step.team.run(step);
        return 0;
    }
};
