// The recurrence through time. Read `step` beside elmnet.ops.reference.step: it is the same text.
#pragma once
#include "layer.h"

template <class R, int L> struct Forward : Layer<R, L> {
    using Base = Layer<R, L>;
    using typename Base::V;
    using Base::B, Base::T, Base::n_in, Base::N, Base::D, Base::K, Base::M, Base::H, Base::Y, Base::S, Base::Q;
    using Base::c, Base::rows, Base::fan, Base::quad, Base::quads, Base::slots, Base::W, Base::pitch;

    R *stream[2];                // input channels of a block, (n_in, pitch); two, so that one barrier does
    R *said[2];                  // the layer's activity, masked, after even and odd steps, (Q, S, L)
    R *heard;                    // each member's copy of what synapses read at a step: input, activity, silence
    const int64_t channels;      // n_in + S + 1, of each tile: (Q, channels, L)
    R *memory, *branch, *highpass; // (N, Q, rows, L)
    R *local;                    // each member's own: a record, or a block of them; d_mlp rows
    const int64_t local_rows;
    Team &team;

    Forward(const Call &call, Arena &arena, Team &team)
        : Base(call, arena, true), channels(n_in + S + 1), local_rows(c.block * rows + H + 1), team(team) {
        for (auto &s : stream) s = arena.take<R>(n_in * pitch);
        for (auto &s : said) s = arena.take<R>(Q * S * L);
        heard = arena.take<R>(c.threads * Q * channels * L);
        memory = arena.take<R>(N * Q * M * L);
        branch = arena.take<R>(c.filtered ? N * Q * D * L : 0);
        highpass = arena.take<R>(c.highpassed ? N * Q * Y * L : 0);
        local = arena.take<R>(c.threads * local_rows * L);
    }

    void operator()(int64_t member) {
        Range units = share(N, team.size, member), items = share(N * Q, team.size, member);
        this->pack(units, true, team);
        load_state(units);
        R *own = local + member * local_rows * L, *active = own + c.block * rows * L;
        const bool recurrent = this->recurrent.load();
        const Range inputs = share(n_in, team.size, member);
        for (int64_t t0 = c.begin, parity = 0; t0 < c.end; t0 += c.block, parity ^= 1) {
            int64_t t1 = t0 + c.block < c.end ? t0 + c.block : c.end;
            if (!recurrent)
                this->streams(stream[parity], (const R *)c.x, n_in, inputs, (const R *)c.mask_input, t0, t1, 0);
            team.wait();
            if (recurrent) {
                for (int64_t t = t0; t < t1; t++) {
                    listen(t, member);
                    for (int64_t i = items.begin; i < items.end; i++) step(t, i / Q, i % Q, own, active, member);
                    team.wait();
                }
            } else {
                for (int64_t i = items.begin; i < items.end; i++) {
                    feed(stream[parity], own, t0, t1, i / Q, i % Q);
                    for (int64_t t = t0; t < t1; t++) step(t, i / Q, i % Q, own + (t - t0) * rows * L, active, member);
                }
            }
        }
        team.wait();
        if (c.memory2) save_state(units);
    }

    void load_state(Range units) {
        for (int64_t n = units.begin; n < units.end; n++)
            for (int64_t q = 0; q < Q; q++) {
                int64_t item = n * Q + q;
                this->gather(memory + item * M * L, (const R *)c.memory0 + n * M, N * M, q, M);
                if (c.filtered) this->gather(branch + item * D * L, (const R *)c.branch0 + n * D, N * D, q, D);
                if (c.highpassed) this->gather(highpass + item * Y * L, (const R *)c.highpass0 + n * Y, N * Y, q, Y);
                R *y = said[(c.begin + 1) & 1] + (q * S + n * Y) * L;
                this->gather(y, (const R *)c.activity0 + n * Y, S, q, Y);
                if (this->mask_recurrent)
                    for (int64_t i = 0; i < Y * L; i++) y[i] *= this->mask_recurrent[(q * (S + 1) + n * Y) * L + i];
            }
    }

    // What synapses read at a step, into the member's own cache: its units read every channel many times.
    void listen(int64_t t, int64_t member) {
        for (int64_t q = 0; q < Q; q++) {
            R *table = heard + (member * Q + q) * channels * L;
            this->to_lanes(table, L, (const R *)c.x, n_in, {0, n_in}, (const R *)c.mask_input, q, t);
            memcpy(table + n_in * L, said[(t + 1) & 1] + q * S * L, S * L * sizeof(R));
            V::all(0).store(table + (n_in + S) * L);
        }
    }

    // State after the call's last step, whatever the sequences' lengths; activity2 is written by `step`.
    void save_state(Range units) {
        for (int64_t n = units.begin; n < units.end; n++)
            for (int64_t q = 0; q < Q; q++) {
                int64_t item = n * Q + q;
                this->scatter((R *)c.memory2 + n * M, memory + item * M * L, N * M, q, M);
                if (c.filtered) this->scatter((R *)c.branch2 + n * D, branch + item * D * L, N * D, q, D);
                if (c.highpassed) this->scatter((R *)c.highpass2 + n * Y, highpass + item * Y * L, N * Y, q, Y);
            }
    }

    // Sums of the synapses for all steps of a block, in a layer that does not read its own activity.
    void feed(const R *stream, R *records, int64_t t0, int64_t t1, int64_t n, int64_t q) {
        const int64_t *start = this->feed_start + n * (D + 1);
        for (int64_t j = 0; j < D; j++) {
            if (this->mask_synapse) {
                for (int64_t t = t0; t < t1; t++) feed_masked(stream, records, t0, t, n, q, j, start);
                continue;
            }
            int64_t length = (t1 - t0) * L, s = 0;
            for (; s + 8 * W <= length; s += 8 * W) feed_piece<8>(stream, records, t1 - t0, n, q, j, s, start);
            for (; s < length; s += W) feed_piece<1>(stream, records, t1 - t0, n, q, j, s, start);
        }
    }

    template <int C>
    INLINE void feed_piece(const R *stream, R *records, int64_t steps, int64_t n, int64_t q, int64_t j, int64_t s,
                           const int64_t *start) {
        constexpr int64_t piece = L < W ? L : W;
        const int32_t *source = this->feed_source + n * D * K;
        const R *weight = this->feed_weight + n * D * K;
        Wide<R> sum[C];
#pragma GCC unroll 8
        for (int i = 0; i < C; i++) sum[i] = Wide<R>::all(0);
        for (int64_t k = start[j]; k < start[j + 1]; k++) {
            const R *x = stream + source[k] * pitch + q * c.block * L + s;
#pragma GCC unroll 8
            for (int i = 0; i < C; i++) sum[i] = add_product(sum[i], weight[k], Wide<R>::load(x + i * W));
        }
#pragma GCC unroll 8
        for (int i = 0; i < C; i++)
            for (int64_t p = 0; p < W; p += piece) {
                int64_t at = s + i * W + p; // lane `at % L` of the block's step at / L
                if (L < W && at / L >= steps) break;
                memcpy(records + (at / L * rows + j) * L + at % L, (const R *)&sum[i] + p, piece * sizeof(R));
            }
    }

    void feed_masked(const R *stream, R *records, int64_t t0, int64_t t, int64_t n, int64_t q, int64_t j,
                     const int64_t *start) {
        const int32_t *source = this->feed_source + n * D * K, *place = this->feed_place + n * D * K;
        const R *weight = this->feed_weight + n * D * K, *mask = this->mask_synapse + (n * Q + q) * D * K * L;
        V sum = V::all(0);
        for (int64_t k = start[j]; k < start[j + 1]; k++) {
            V x = V::load(stream + source[k] * pitch + (q * c.block + t - t0) * L);
            sum = add_product(sum, weight[k] * V::load(mask + place[k] * L), x);
        }
        sum.store(records + ((t - t0) * rows + j) * L);
    }

    // Sums of the synapses at one step, from the table of what they read.
    template <bool Masked> INLINE void sweep(R *branches, const R *table, int64_t n, int64_t q) {
        const int32_t *source = this->sweep_source + n * slots, *place = this->sweep_place + n * slots;
        const R *weight = this->sweep_weight + n * slots;
        const R *mask = this->mask_synapse + (n * Q + q) * D * K * L;
        alignas(64) R nobody[L];
        for (int64_t g = 0; g < quads; g++) {
            const int32_t *branch = this->sweep_branch + (n * quads + g) * quad;
            V sum[quad];
#pragma GCC unroll 4
            for (int i = 0; i < quad; i++) sum[i] = V::all(0);
            for (int64_t k = this->sweep_count[n * quads + g]; k > 0; k--, source += quad, weight += quad, place += quad)
#pragma GCC unroll 4
                for (int i = 0; i < quad; i++) {
                    V x = V::load(table + source[i]);
                    if constexpr (Masked) x = x * V::load(mask + place[i] * L);
                    sum[i] = add_product(sum[i], weight[i], x);
                }
#pragma GCC unroll 4
            for (int i = 0; i < quad; i++) sum[i].store(branch[i] < 0 ? nobody : branches + branch[i] * L);
        }
    }

    // One neuron, one time step, L sequences.
    INLINE void step(int64_t t, int64_t n, int64_t q, R *record, R *active, int64_t member) {
        const int64_t item = n * Q + q;
        R *b = record, *decayed = b + D * L, *hidden = decayed + M * L;
        R *update = hidden + H * L, *drive = update + M * L;

        if (this->recurrent.load(std::memory_order_relaxed)) {
            const R *table = heard + (member * Q + q) * channels * L;
            if (this->mask_synapse) sweep<true>(b, table, n, q);
            else sweep<false>(b, table, n, q);
        }
        if (c.filtered) {
            R *kept = branch + item * D * L;
            for (int64_t j = 0; j < D; j++) {
                V now = add_product(V::load(b + j * L), (R)c.branch_decay, V::load(kept + j * L));
                now.store(b + j * L);
                now.store(kept + j * L);
            }
        }
        R *m = memory + item * M * L;
        const R *decay = (const R *)c.decay + n * M, *gain = (const R *)c.gain + n * M;
        for (int64_t k = 0; k < M; k++) (decay[k] * V::load(m + k * L)).store(decayed + k * L);

        const R *z = b;
        if (H) {
            affine<R, L>(hidden, H, (const R *)c.bias1 + n * H, this->weight1 + n * (D + M) * H, b, D + M);
            for (int64_t i = 0; i < H; i++)
                mlp_activation(c.mlp_activation, V::load(hidden + i * L)).store(active + i * L);
            z = active;
        }
        affine<R, L>(update, M, (const R *)c.bias2 + n * M, this->weight2 + n * fan * M, z, fan);

        const R *dropout = this->mask_memory + item * M * L;
        for (int64_t k = 0; k < M; k++) {
            V u = V::load(update + k * L);
            if (this->mask_memory) u = u * V::load(dropout + k * L);
            V delta = R(COMPRESS_HEIGHT) * tanh(R(COMPRESS_SLOPE) * u);
            add_product(V::load(decayed + k * L), gain[k], delta).store(m + k * L);
        }

        const bool last = this->ends(t, q);
        for (int64_t o = 0; o < Y; o++) {
            const R *w = (const R *)c.readout + (n * Y + o) * M;
            V y = V::all(0);
            for (int64_t k = 0; k < M; k++) y = add_product(y, w[k], V::load(m + k * L));
            V u = y + ((const R *)c.bias)[n * Y + o];
            if (c.highpassed) {
                R *r = highpass + (item * Y + o) * L;
                V slow = add_product(R(c.highpass_decay) * V::load(r), R(1 - c.highpass_decay), y);
                slow.store(r);
                u = u - slow;
            }
            u.store(drive + o * L);
            V a = u;
            if (c.activation == RELU_OUT) a = where_not_negative(u, u);
            if (c.activation == SPIKE) a = where_positive(u, V::all(1));
            emit(a, y, t, n, q, o, last);
        }
        if (c.see_branch) memcpy(seen(c.see_branch, t, item, D), b, D * L * sizeof(R));
        if (c.see_mlp) memcpy(seen(c.see_mlp, t, item, M), update, M * L * sizeof(R));
        if (c.see_memory) memcpy(seen(c.see_memory, t, item, M), m, M * L * sizeof(R));
        if (c.keep) stream_out<R, L>(this->record((R *)c.tape, t - c.begin, n, q), record, rows);
        if (last) {
            this->scatter((R *)c.memory1 + n * M, m, N * M, q, M, t);
            if (c.filtered) this->scatter((R *)c.branch1 + n * D, b, N * D, q, D, t);
            if (c.highpassed) this->scatter((R *)c.highpass1 + n * Y, highpass + item * Y * L, N * Y, q, Y, t);
        }
    }

    // Output `o` of a unit goes to the layer's output, to the next step's synapses, and where a state is asked for.
    INLINE void emit(V a, V y, int64_t t, int64_t n, int64_t q, int64_t o, bool last) {
        const int64_t channel = n * Y + o;
        alignas(64) R values[L];
        a.store(values);
        R *out = (R *)c.out;
        for (int64_t l = 0; l < L && q * L + l < B; l++) {
            int64_t sequence = q * L + l;
            if (out) out[(sequence * T + t) * S + channel] = t <= c.last[sequence] ? values[l] : R(0);
        }
        if (last) this->scatter((R *)c.activity1 + channel, values, S, q, 1, t);
        if (c.activity2 && t == c.end - 1) this->scatter((R *)c.activity2 + channel, values, S, q, 1);
        if (c.see_readout) y.store(seen(c.see_readout, t, n * Q + q, Y) + o * L);
        if (this->mask_recurrent) a = a * V::load(this->mask_recurrent + (q * (S + 1) + channel) * L);
        a.store(said[t & 1] + (q * S + channel) * L);
    }

    R *seen(void *signal, int64_t t, int64_t item, int64_t count) { return (R *)signal + (t * N * Q + item) * count * L; }
};
