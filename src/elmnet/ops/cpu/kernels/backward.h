// Back-propagation through time, in blocks of steps, last block first. For every block:
//   1. `reverse`: the recurrence backwards, step by step. What each unit's weights will need is kept in a notebook:
//      the rows [branch d_tree | hidden d_mlp | MLP output d_m | read-out n_y | drive n_y] of derivatives.
//   2. `weigh`: with the notebook full, every weight's gradient is a dot product over all steps and sequences of the
//      block, and the gradient of the layer's input a sum of notebook rows.
#pragma once
#include "layer.h"

// dots<I, J>: to[i·stride + j] += scale·Σ a[i]·b[j] over streams of `length` values, for i < tall, j < wide.
template <int I, int J, class R>
static INLINE void dots(R *to, int64_t stride, R scale, const R *const *a, const R *const *b, int64_t length,
                        int64_t tall = I, int64_t wide = J) {
    constexpr int W = Wide<R>::W, all = (I * J + W - 1) / W * W;
    Wide<R> sum[all];
#pragma GCC unroll 16
    for (int i = 0; i < all; i++) sum[i] = Wide<R>::all(0);
    for (int64_t s = 0; s < length; s += W) {
        Wide<R> x[I];
#pragma GCC unroll 16
        for (int i = 0; i < I; i++) x[i] = Wide<R>::load(a[i] + s);
#pragma GCC unroll 16
        for (int j = 0; j < J; j++) {
            Wide<R> y = Wide<R>::load(b[j] + s);
#pragma GCC unroll 16
            for (int i = 0; i < I; i++) sum[i * J + j] = add_product(sum[i * J + j], x[i], y);
        }
    }
    alignas(64) R total[all];
#pragma GCC unroll 4
    for (int i = 0; i < all; i += W) sums<R>(sum + i).store(total + i);
    for (int64_t i = 0; i < tall; i++)
        for (int64_t j = 0; j < wide; j++) to[i * stride + j] += scale * total[i * J + j];
}

// to (rows, columns) += a · bᵀ where a and b are rows of streams, `pitch` apart.
template <class R>
static void outer(R *to, const R *a, int64_t rows, const R *b, int64_t columns, int64_t length, int64_t pitch) {
    constexpr int I = REGISTERS == 32 ? 4 : 2, J = 4;
    const R *x[I], *y[J];
    for (int64_t j = 0; j < columns; j += J) {
        int64_t wide = columns - j < J ? columns - j : J;
        for (int64_t k = 0; k < J; k++) y[k] = b + (j + (k < wide ? k : 0)) * pitch;
        for (int64_t i = 0; i < rows; i += I) {
            int64_t tall = rows - i < I ? rows - i : I;
            for (int k = 0; k < I; k++) x[k] = a + (i + (k < tall ? k : 0)) * pitch;
            if (tall == I && wide == J) dots<I, J>(to + i * columns + j, columns, R(1), x, y, length);
            else dots<I, J>(to + i * columns + j, columns, R(1), x, y, length, tall, wide);
        }
    }
}

template <class R, int L> struct Backward : Layer<R, L> {
    using Base = Layer<R, L>;
    using typename Base::V;
    using Base::B, Base::T, Base::n_in, Base::N, Base::D, Base::K, Base::M, Base::H, Base::Y, Base::S, Base::Q;
    using Base::c, Base::rows, Base::fan, Base::quad, Base::quads, Base::slots, Base::W, Base::length, Base::pitch;

    Team &team;
    const int64_t kept; // rows of a unit's notes
    R *source;          // streams of all channels a synapse may read, (n_in + S, pitch)
    R *notebook;        // (block, N, Q, kept, L)
    R *arriving;        // (threads, 2, Q, S + 1, L): gradient of the activity one step earlier, from each member
    R *grad_x;          // (threads, n_in, pitch)
    R *pack_a, *pack_b; // (threads, rows, pitch): a unit's rows as streams
    R *local;           // (threads, rows, L): each member's own
    R *sum_readout, *sum_decay, *sum_gain; // (N, Q, rows, L): these need no stream
    R *memory, *branch, *highpass, *activity; // the carry: adjoint of the state
    const int64_t pack_rows, local_rows;

    Backward(const Call &call, Arena &arena, Team &team)
        : Base(call, arena, false), team(team), kept(Base::whole(D + H + M + 2 * Y)),
          pack_rows(D + M + H > Y ? D + M + H : Y), local_rows(H + D + 2 * M) {
        source = arena.take<R>((n_in + S) * pitch);
        notebook = arena.take<R>(c.block * (N > c.threads ? N : c.threads) * Q * kept * L);
        arriving = arena.take<R>(c.threads * 2 * Q * (S + 1) * L);
        grad_x = arena.take<R>(c.grad_x ? c.threads * n_in * pitch : 0);
        pack_a = arena.take<R>(c.threads * pack_rows * pitch);
        pack_b = arena.take<R>(c.threads * pack_rows * pitch);
        local = arena.take<R>(c.threads * local_rows * L);
        sum_readout = arena.take<R>(N * Q * Y * M * L);
        sum_decay = arena.take<R>(N * Q * M * L);
        sum_gain = arena.take<R>(N * Q * M * L);
        Arena state(c.carry);
        carve(state);
    }

    // The carry between calls: (N, Q, rows, L) each, and the activity's (Q, S, L).
    int64_t carve(Arena &state) {
        memory = state.take<R>(N * Q * M * L);
        branch = state.take<R>(c.filtered ? N * Q * D * L : 0);
        highpass = state.take<R>(c.highpassed ? N * Q * Y * L : 0);
        activity = state.take<R>(Q * S * L);
        return state.bytes();
    }

    void operator()(int64_t member) {
        Range units = share(N, team.size, member), items = share(N * Q, team.size, member);
        this->pack(units, false, team);
        begin(units, member);
        team.wait();
        int64_t blocks = (c.end - c.begin + c.block - 1) / c.block;
        for (int64_t i = blocks - 1; i >= 0; i--) {
            int64_t t0 = c.begin + i * c.block, t1 = t0 + c.block < c.end ? t0 + c.block : c.end;
            load_sources(t0, t1, member);
            if (c.grad_x) memset(grad_x + member * n_in * pitch, 0, n_in * pitch * sizeof(R));
            if (this->recurrent.load()) {
                reverse(items, t0, t1, member);
                for (int64_t n = units.begin; n < units.end; n++) weigh(n, t0, t1, member);
            } else {
                team.wait();
                for (int64_t n = units.begin; n < units.end; n++) {
                    for (int64_t q = 0; q < Q; q++)
                        for (int64_t t = t1 - 1; t >= t0; t--) step_back(t, t0, n, q, member);
                    weigh(n, t0, t1, member);
                }
            }
            team.wait();
            if (c.grad_x) deliver(t0, t1, member);
        }
        finish(units);
    }

    void begin(Range units, int64_t member) {
        memset(arriving + member * 2 * Q * (S + 1) * L, 0, 2 * Q * (S + 1) * L * sizeof(R));
        Range items = {units.begin * Q, units.end * Q};
        auto clear = [&](R *p, int64_t count) {
            memset(p + items.begin * count * L, 0, (items.end - items.begin) * count * L * sizeof(R));
        };
        clear(sum_readout, Y * M);
        clear(sum_decay, M);
        clear(sum_gain, M);
        if (c.keep) return;
        clear(memory, M);
        if (c.filtered) clear(branch, D);
        if (c.highpassed) clear(highpass, Y);
        for (int64_t q = 0; q < Q; q++)
            memset(activity + (q * S + units.begin * Y) * L, 0, (units.end - units.begin) * Y * L * sizeof(R));
    }

    // 1. The recurrence backwards ------------------------------------------------------------------------------------

    void reverse(Range items, int64_t t0, int64_t t1, int64_t member) {
        for (int64_t t = t1 - 1; t >= t0; t--) {
            // everyone has read what the step t + 2 sent
            memset(arriving_of(member, t), 0, Q * (S + 1) * L * sizeof(R));
            for (int64_t i = items.begin; i < items.end; i++) step_back(t, t0, i / Q, i % Q, member);
            team.wait();
        }
    }

    R *arriving_of(int64_t member, int64_t t) { return arriving + (member * 2 + (t & 1)) * Q * (S + 1) * L; }

    // A unit's notes. Where units do not wait for each other they are weighed at once, and the next unit's replace them.
    R *notes(int64_t t, int64_t t0, int64_t n, int64_t q, int64_t member) {
        if (this->recurrent.load(std::memory_order_relaxed)) return notebook + (((t - t0) * N + n) * Q + q) * kept * L;
        return notebook + ((member * c.block + t - t0) * Q + q) * kept * L;
    }

    // Gradient of one of a unit's outputs: from the layer's output, the next step's synapses, the final state.
    INLINE V output_gradient(int64_t t, int64_t n, int64_t q, int64_t o, bool last) {
        const int64_t channel = n * Y + o;
        V g = V::load(activity + (q * S + channel) * L); // only at the call's last step not zero
        V::all(0).store(activity + (q * S + channel) * L);
        if (this->recurrent.load(std::memory_order_relaxed) && t + 1 < c.end)
            for (int64_t p = 0; p < team.size; p++)
                g = g + V::load(arriving_of(p, t + 1) + (q * (S + 1) + channel) * L);
        if (this->mask_recurrent && t + 1 < c.end)
            g = g * V::load(this->mask_recurrent + (q * (S + 1) + channel) * L);
        alignas(64) R values[L] = {};
        const R *out = (const R *)c.grad_out, *final = (const R *)c.grad_activity1;
        if (out || (last && final)) {
            for (int64_t l = 0; l < L && q * L + l < B; l++) {
                int64_t sequence = q * L + l;
                if (out && t <= c.last[sequence]) values[l] = out[(sequence * T + t) * S + channel];
                if (final && t == c.last[sequence]) values[l] += final[sequence * S + channel];
            }
            g = g + V::load(values);
        }
        return g;
    }

    // Add a (B, N, count) gradient of the final state to rows, for the sequences that end at t.
    void add_final(R *to, const void *grad, int64_t n, int64_t q, int64_t count, int64_t t) {
        if (!grad) return;
        for (int64_t l = 0; l < L && q * L + l < B; l++)
            if (c.last[q * L + l] == t)
                for (int64_t i = 0; i < count; i++)
                    to[i * L + l] += ((const R *)grad)[((q * L + l) * N + n) * count + i];
    }

    INLINE V seen(const void *grad, int64_t t, int64_t item, int64_t count, int64_t row) {
        return V::load((const R *)grad + ((t * N * Q + item) * count + row) * L);
    }

    // The reverse of Forward::step. The carry holds the adjoint of the state after step t when this begins, and of
    // the state before it when it ends; the memory's still lacks its factor κ, which `decay` needs apart.
    INLINE void step_back(int64_t t, int64_t t0, int64_t n, int64_t q, int64_t member) {
        const int64_t item = n * Q + q;
        const R *b = this->record((R *)c.tape - c.begin * N * Q * rows * L, t, n, q);
        const R *decayed = b + D * L, *hidden = decayed + M * L, *update = hidden + H * L, *drive = update + M * L;
        R *d_branch = notes(t, t0, n, q, member), *d_hidden = d_branch + D * L, *d_update = d_hidden + H * L;
        R *d_readout = d_update + M * L, *d_drive = d_readout + Y * L;
        R *d_active = local + member * local_rows * L, *d_input = d_active + H * L, *d_memory = d_input + (D + M) * L;
        const bool last = this->ends(t, q);
        prefetch(this->recurrent.load(std::memory_order_relaxed) ? b + rows * L : b - N * Q * rows * L, rows * L * sizeof(R));

        // activity, drive, high-pass
        R *slow = highpass + item * Y * L;
        if (last && c.highpassed) add_final(slow, c.grad_highpass1, n, q, Y, t);
        for (int64_t o = 0; o < Y; o++) {
            V u = V::load(drive + o * L), du = output_gradient(t, n, q, o, last);
            if (c.activation == RELU_OUT) du = where_positive(u, du);
            if (c.activation == SPIKE) {
                V slope = R(100) * absolute(u) + R(1);
                du = R(c.surrogate_gain) * du / (slope * slope);
            }
            du.store(d_drive + o * L);
            V dy = du;
            if (c.highpassed) {
                V dr = V::load(slow + o * L) - du;
                dy = add_product(dy, R(1 - c.highpass_decay), dr);
                (R(c.highpass_decay) * dr).store(slow + o * L);
            }
            if (c.grad_readout) dy = dy + seen(c.grad_readout, t, item, Y, o);
            dy.store(d_readout + o * L);
        }

        // read-out, memory, compression
        R *carried = memory + item * M * L; // adjoint of κ·m
        if (last && c.grad_memory1) {
            memset(d_memory, 0, M * L * sizeof(R));
            add_final(d_memory, c.grad_memory1, n, q, M, t);
        }
        const R *decay = (const R *)c.decay + n * M, *gain = (const R *)c.gain + n * M;
        const R *dropout = this->mask_memory + item * M * L;
        for (int64_t k = 0; k < M; k++) {
            V after = V::load(carried + k * L), u = V::load(update + k * L);
            V dm = decay[k] * after;
            if (last && c.grad_memory1) dm = dm + V::load(d_memory + k * L);
            if (c.grad_memory) dm = dm + seen(c.grad_memory, t, item, M, k);
            V mask = this->mask_memory ? V::load(dropout + k * L) : V::all(1);
            V squashed = tanh(R(COMPRESS_SLOPE) * mask * u), delta = R(COMPRESS_HEIGHT) * squashed;
            V m = add_product(V::load(decayed + k * L), gain[k], delta);
            for (int64_t o = 0; o < Y; o++) {
                V dy = V::load(d_readout + o * L);
                dm = add_product(dm, ((const R *)c.readout)[(n * Y + o) * M + k], dy);
                add_to(sum_readout + ((item * Y + o) * M + k) * L, m, dy);
            }
            if (c.grad_decay) add_to(sum_decay + (item * M + k) * L, after, m);
            if (c.grad_gain) add_to(sum_gain + (item * M + k) * L, dm, delta);
            V du = R(COMPRESS_HEIGHT * COMPRESS_SLOPE) * gain[k] * dm * (R(1) - squashed * squashed) * mask;
            if (c.grad_mlp) du = du + seen(c.grad_mlp, t, item, M, k);
            du.store(d_update + k * L);
            dm.store(carried + k * L);
        }

        // MLP
        const R *d_affine = d_update;
        int64_t outputs = M;
        const R *weight = (const R *)c.weight2 + n * M * fan;
        if (H) {
            affine<R, L>(d_active, H, nullptr, weight, d_update, M);
            for (int64_t i = 0; i < H; i++)
                (mlp_slope(c.mlp_activation, V::load(hidden + i * L)) * V::load(d_active + i * L)).store(d_hidden + i * L);
            d_affine = d_hidden, outputs = H, weight = (const R *)c.weight1 + n * H * (D + M);
        }
        affine<R, L>(d_input, D + M, nullptr, weight, d_affine, outputs);
        for (int64_t k = 0; k < M; k++)
            (V::load(carried + k * L) + V::load(d_input + (D + k) * L)).store(carried + k * L);

        // branches and the synapses on the layer's own activity
        R *filter = branch + item * D * L;
        if (last && c.filtered) add_final(filter, c.grad_branch1, n, q, D, t);
        for (int64_t j = 0; j < D; j++) {
            V db = V::load(d_input + j * L);
            if (c.grad_branch) db = db + seen(c.grad_branch, t, item, D, j);
            if (c.filtered) {
                db = db + V::load(filter + j * L);
                (R(c.branch_decay) * db).store(filter + j * L);
            }
            db.store(d_branch + j * L);
        }
        if (this->recurrent.load(std::memory_order_relaxed)) {
            R *before = arriving_of(member, t) + q * (S + 1) * L;
            if (this->mask_synapse) sweep_back<true>(before, d_branch, n, q);
            else sweep_back<false>(before, d_branch, n, q);
        }
    }

    static INLINE void add_to(R *sum, V a, V b) { add_product(V::load(sum), a, b).store(sum); }

    template <bool Masked> INLINE void sweep_back(R *activity, const R *d_branch, int64_t n, int64_t q) {
        const int32_t *source = this->sweep_source + n * slots, *place = this->sweep_place + n * slots;
        const R *weight = this->sweep_weight + n * slots;
        const R *mask = this->mask_synapse + (n * Q + q) * D * K * L;
        for (int64_t g = 0; g < quads; g++) {
            const int32_t *branch = this->sweep_branch + (n * quads + g) * quad;
            V d[quad];
#pragma GCC unroll 4
            for (int i = 0; i < quad; i++) d[i] = V::load(d_branch + (branch[i] < 0 ? 0 : branch[i]) * L);
            for (int64_t k = this->sweep_count[n * quads + g]; k > 0; k--, source += quad, weight += quad, place += quad)
#pragma GCC unroll 4
                for (int i = 0; i < quad; i++) {
                    R *y = activity + source[i];
                    V dy = d[i];
                    if constexpr (Masked) dy = dy * V::load(mask + place[i] * L);
                    add_product(V::load(y), weight[i], dy).store(y);
                }
        }
    }

    // 2. Gradients of the weights and of the input -------------------------------------------------------------------

    // What synapses read at the block's steps: the input, and the activity one step earlier.
    void load_sources(int64_t t0, int64_t t1, int64_t member) {
        this->streams(source, (const R *)c.x, n_in, share(n_in, team.size, member), (const R *)c.mask_input, t0, t1, 0);
        Range channels = share(S, team.size, member);
        const R *mask = (const R *)c.mask_recurrent;
        this->streams(source + n_in * pitch, (const R *)c.out, S, channels, mask, t0, t1, 1);
        if (t0 > 0) return;
        for (int64_t channel = channels.begin; channel < channels.end; channel++)
            for (int64_t b = 0; b < B; b++) {
                R y = ((const R *)c.activity0)[b * S + channel] * (mask ? mask[b * S + channel] : R(1));
                source[(n_in + channel) * pitch + (b / L) * c.block * L + b % L] = y;
            }
    }

    // A unit's rows [first, first + count) of tape or notebook as streams to[row·pitch + (q·block + step)·L + lane].
    template <class Address>
    INLINE void unroll(R *to, int64_t first, int64_t count, int64_t t0, int64_t t1, Address at) {
        for (int64_t q = 0; q < Q; q++)
            for (int64_t s = 0; s < c.block; s++) {
                R *cell = to + (q * c.block + s) * L;
                if (t0 + s >= t1) {
                    for (int64_t i = 0; i < count; i++) V::all(0).store(cell + i * pitch);
                    continue;
                }
                const R *row = at(t0 + s, q) + first * L;
                if (t0 + s + 1 < t1) prefetch(at(t0 + s + 1, q) + first * L, count * L * sizeof(R));
                for (int64_t i = 0; i < count; i++) V::load(row + i * L).store(cell + i * pitch);
            }
        int64_t end = Q * c.block * L;
        for (int64_t i = 0; i < count && end < length; i++) memset(to + i * pitch + end, 0, (length - end) * sizeof(R));
    }

    void add_sums(R *to, const R *stream, int64_t count) {
        if (!to) return;
        for (int64_t i = 0; i < count; i++) {
            Wide<R> sum = Wide<R>::all(0);
            for (int64_t s = 0; s < length; s += W) sum = sum + Wide<R>::load(stream + i * pitch + s);
            to[i] += sum.sum();
        }
    }

    void weigh(int64_t n, int64_t t0, int64_t t1, int64_t member) {
        R *tape = (R *)c.tape - c.begin * N * Q * rows * L;
        R *forward = pack_a + member * pack_rows * pitch, *backward = pack_b + member * pack_rows * pitch;
        auto recorded = [&](int64_t t, int64_t q) { return (const R *)this->record(tape, t, n, q); };
        auto noted = [&](int64_t t, int64_t q) { return (const R *)notes(t, t0, n, q, member); };

        unroll(forward, 0, D + M + H, t0, t1, recorded);
        unroll(backward, 0, D + H + M, t0, t1, noted);
        const R *z = forward, *hidden = forward + (D + M) * pitch;
        const R *d_branch = backward, *d_hidden = backward + D * pitch, *d_update = d_hidden + H * pitch;
        if (H) {
            R *active = forward + (D + M) * pitch;
            for (int64_t i = 0; i < H; i++)
                for (R *a = active + i * pitch; a < active + i * pitch + length; a += W)
                    mlp_activation(c.mlp_activation, Wide<R>::load(a)).store(a);
            if (c.grad_weight1) outer((R *)c.grad_weight1 + n * H * (D + M), d_hidden, H, z, D + M, length, pitch);
            add_sums(c.grad_bias1 ? (R *)c.grad_bias1 + n * H : nullptr, d_hidden, H);
        }
        if (c.grad_weight2) outer((R *)c.grad_weight2 + n * M * fan, d_update, M, H ? hidden : z, fan, length, pitch);
        add_sums(c.grad_bias2 ? (R *)c.grad_bias2 + n * M : nullptr, d_update, M);
        if (c.grad_synapse) weigh_synapses(n, d_branch);
        if (c.grad_x) weigh_input(n, d_branch, member);
        if (c.grad_bias) { // the pack is free now
            unroll(backward, D + H + M + Y, Y, t0, t1, noted);
            add_sums((R *)c.grad_bias + n * Y, backward, Y);
        }
    }

    void weigh_synapses(int64_t n, const R *d_branch) {
        const R scale = (R)c.input_scale;
        for (int64_t j = 0; j < D; j++) {
            const int64_t *from = c.connectome + (n * D + j) * K;
            R *to = (R *)c.grad_synapse + (n * D + j) * K;
            const R *d = d_branch + j * pitch;
            if (this->mask_synapse) {
                for (int64_t k = 0; k < K; k++)
                    if (from[k] >= 0) to[k] += scale * masked_dot(source + from[k] * pitch, d, n, j * K + k);
                continue;
            }
            constexpr int most = REGISTERS / 2;
            for (int64_t k = 0; k < K; k += most) {
                int64_t count = K - k < most ? K - k : most;
                const R *x[most];
                R sum[most] = {};
                for (int64_t i = 0; i < most; i++) {
                    int64_t channel = from[k + (i < count ? i : 0)];
                    x[i] = source + (channel < 0 ? 0 : channel) * pitch;
                }
                switch ((count + 3) / 4) {
                case 1: dots<4, 1>(sum, 1, scale, x, &d, length); break;
                case 2: dots<8, 1>(sum, 1, scale, x, &d, length); break;
                case 3: dots<most < 12 ? most : 12, 1>(sum, 1, scale, x, &d, length); break;
                default: dots<most, 1>(sum, 1, scale, x, &d, length);
                }
                for (int64_t i = 0; i < count; i++)
                    if (from[k + i] >= 0) to[k + i] += sum[i];
            }
        }
    }

    R masked_dot(const R *x, const R *d, int64_t n, int64_t place) {
        R total = 0;
        for (int64_t q = 0; q < Q; q++) {
            V sum = V::all(0);
            for (int64_t s = 0; s < c.block; s++)
                sum = add_product(sum, V::load(x + (q * c.block + s) * L), V::load(d + (q * c.block + s) * L));
            total += (sum * V::load(this->mask_synapse + ((n * Q + q) * D * K + place) * L)).sum();
        }
        return total;
    }

    // Gradient of the input channels a unit reads, into the member's own streams.
    void weigh_input(int64_t n, const R *d_branch, int64_t member) {
        R *mine = grad_x + member * n_in * pitch;
        const int64_t *start = this->feed_start + n * (D + 1);
        const int32_t *from = this->feed_source + n * D * K, *place = this->feed_place + n * D * K;
        const R *weight = this->feed_weight + n * D * K;
        for (int64_t j = 0; j < D; j++)
            for (int64_t k = start[j]; k < start[j + 1]; k++) {
                R *x = mine + from[k] * pitch;
                const R *d = d_branch + j * pitch;
                if (this->mask_synapse) {
                    for (int64_t q = 0; q < Q; q++) {
                        V w = weight[k] * V::load(this->mask_synapse + ((n * Q + q) * D * K + place[k]) * L);
                        for (int64_t s = q * c.block * L; s < (q + 1) * c.block * L; s += L)
                            add_to(x + s, w, V::load(d + s));
                    }
                    continue;
                }
                for (int64_t s = 0; s < length; s += W)
                    add_product(Wide<R>::load(x + s), weight[k], Wide<R>::load(d + s)).store(x + s);
            }
    }

    // Sum the members' gradients of the input and write them as (B, T, n_in).
    void deliver(int64_t t0, int64_t t1, int64_t member) {
        Range channels = share(n_in, team.size, member);
        const R *mask = (const R *)c.mask_input;
        for (int64_t i = channels.begin * pitch; i < channels.end * pitch; i += W) {
            Wide<R> sum = Wide<R>::load(grad_x + i);
            for (int64_t p = 1; p < team.size; p++) sum = sum + Wide<R>::load(grad_x + p * n_in * pitch + i);
            sum.store(grad_x + i);
        }
        for (int64_t q = 0; q < Q; q++)
            for (int64_t t = t0; t < t1; t++)
                this->from_lanes((R *)c.grad_x, n_in, channels, mask, q, t, grad_x + (q * c.block + t - t0) * L, pitch);
        team.wait(); // before members clear their streams again
    }

    // The sums kept in lanes, and the adjoint of the state before the first step.
    void finish(Range units) {
        const bool first = c.begin == 0, loops = this->recurrent.load();
        for (int64_t n = units.begin; n < units.end; n++)
            for (int64_t q = 0; q < Q; q++) {
                const int64_t item = n * Q + q;
                for (int64_t o = 0; o < Y; o++) {
                    V g = V::all(0);
                    R *carried = activity + (q * S + n * Y + o) * L;
                    for (int64_t p = 0; loops && p < team.size; p++)
                        g = g + V::load(arriving_of(p, c.begin) + (q * (S + 1) + n * Y + o) * L);
                    if (this->mask_recurrent) g = g * V::load(this->mask_recurrent + (q * (S + 1) + n * Y + o) * L);
                    g.store(carried);
                }
                if (first) {
                    alignas(64) R start[L];
                    for (int64_t k = 0; k < M; k++) {
                        R *carried = memory + (item * M + k) * L;
                        if (c.grad_decay) {
                            this->gather(start, (const R *)c.memory0 + n * M + k, N * M, q, 1);
                            add_to(sum_decay + (item * M + k) * L, V::load(carried), V::load(start));
                        }
                        (((const R *)c.decay)[n * M + k] * V::load(carried)).store(carried);
                    }
                    state_gradient(c.grad_memory0, memory, n, q, M);
                    if (c.filtered) state_gradient(c.grad_branch0, branch, n, q, D);
                    if (c.highpassed) state_gradient(c.grad_highpass0, highpass, n, q, Y);
                    if (c.grad_activity0)
                        this->scatter((R *)c.grad_activity0 + n * Y, activity + (q * S + n * Y) * L, S, q, Y);
                }
                add_lanes(c.grad_readout_weight, sum_readout, n, q, Y * M);
                add_lanes(c.grad_decay, sum_decay, n, q, M);
                add_lanes(c.grad_gain, sum_gain, n, q, M);
            }
    }

    void state_gradient(void *to, const R *carried, int64_t n, int64_t q, int64_t count) {
        if (to) this->scatter((R *)to + n * count, carried + (n * Q + q) * count * L, N * count, q, count);
    }

    void add_lanes(void *to, const R *sums, int64_t n, int64_t q, int64_t count) {
        if (!to) return;
        for (int64_t i = 0; i < count; i++) ((R *)to)[n * count + i] += V::load(sums + ((n * Q + q) * count + i) * L).sum();
    }
};
