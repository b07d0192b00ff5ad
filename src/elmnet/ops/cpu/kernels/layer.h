// What forward and backward share: who does what, where things lie, the packed weights, the neurons' small products.
#pragma once
#include "call.h"
#include "lanes.h"
#include "team.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct Range {
    int64_t begin, end;
};

static INLINE Range share(int64_t count, int64_t parts, int64_t part) {
    return {count * part / parts, count * (part + 1) / parts};
}

// Hands out pieces of the workspace, every piece on a cache line of its own. With a null base it only counts.
class Arena {
  public:
    explicit Arena(void *base) : base((char *)base) {}
    template <class T> T *take(int64_t count) {
        char *piece = base ? base + used : nullptr;
        used += (count * (int64_t)sizeof(T) + 127) / 64 * 64;
        return (T *)piece;
    }
    int64_t bytes() const { return used; }
    bool real() const { return base; }

  private:
    char *base;
    int64_t used = 0;
};

// Ask for memory that will be read next.
static INLINE void prefetch(const void *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i);
}

// Write rows that will not be read soon past the caches, which hold the weights. Whole cache lines.
template <class R, int L> static INLINE void stream_out(R *RESTRICT to, const R *RESTRICT from, int64_t rows) {
    constexpr int64_t W = Lanes<R, L>::W;
    for (int64_t i = 0; i < rows * L; i += W) {
#if defined(__AVX512F__)
        if constexpr (W * sizeof(R) == 64) _mm512_stream_si512((__m512i *)(to + i), *(const __m512i *)(from + i));
        else _mm256_stream_si256((__m256i *)(to + i), *(const __m256i *)(from + i));
#elif defined(__AVX2__)
        _mm256_stream_si256((__m256i *)(to + i), *(const __m256i *)(from + i));
#elif defined(__SSE2__)
        _mm_stream_si128((__m128i *)(to + i), *(const __m128i *)(from + i));
#else
        memcpy(to + i, from + i, W * sizeof(R));
#endif
    }
}

// products<O>: out[o] (+)= Σ_k a[k·stride + o]·z[k], o < O: the O sums stay in registers.
template <int O, class R, int L>
static INLINE void products(R *RESTRICT out, const R *RESTRICT start, const R *RESTRICT a, int64_t stride,
                            const R *RESTRICT z, int64_t count) {
    using V = Lanes<R, L>;
    V sum[O];
#pragma GCC unroll 16
    for (int o = 0; o < O; o++) sum[o] = start ? V::all(start[o]) : V::all(0);
    for (int64_t k = 0; k < count; k++) {
        V zk = V::load(z + k * L);
#pragma GCC unroll 16
        for (int o = 0; o < O; o++) sum[o] = add_product(sum[o], a[k * stride + o], zk);
    }
#pragma GCC unroll 16
    for (int o = 0; o < O; o++) sum[o].store(out + o * L);
}

// A unit's affine map on L sequences: out (n, L) = start (n) + aᵀ z with a (count, n) and z (count, L).
template <class R, int L>
static INLINE void affine(R *RESTRICT out, int64_t n, const R *RESTRICT start, const R *RESTRICT a,
                          const R *RESTRICT z, int64_t count) {
    constexpr int G = Lanes<R, L>::G;
    constexpr int most = (REGISTERS - 4) / G < 12 ? (REGISTERS - 4) / G : 12;
    int64_t pieces = (n + most - 1) / most;
    for (int64_t piece = 0; piece < pieces; piece++) {
        Range r = share(n, pieces, piece);
        R *o = out + r.begin * L;
        const R *s = start ? start + r.begin : nullptr, *m = a + r.begin;
        switch (r.end - r.begin) {
#define CASE(O)                                                                                                        \
    case O:                                                                                                            \
        if constexpr (O <= most) products<O, R, L>(o, s, m, n, z, count);                                              \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
    }
}

template <class R, int L> static INLINE Lanes<R, L> mlp_activation(int64_t kind, Lanes<R, L> h) {
    if (kind == SILU) return h * sigmoid(h);
    Lanes<R, L> positive = where_not_negative(h, h);
    return kind == RELU ? positive : positive * positive;
}

template <class R, int L> static INLINE Lanes<R, L> mlp_slope(int64_t kind, Lanes<R, L> h) {
    if (kind == SILU) {
        Lanes<R, L> s = sigmoid(h);
        return s + h * s * (R(1) - s);
    }
    return where_positive(h, kind == RELU ? Lanes<R, L>::all(1) : R(2) * h);
}

constexpr double COMPRESS_HEIGHT = 1.7159, COMPRESS_SLOPE = 2. / 3.;

// One layer's sizes, tape and packed weights, for tiles of L sequences.
//
// The tape holds, for every step, unit and tile, the rows [branch d_tree | decayed memory d_m | hidden before its
// activation d_mlp | MLP output before dropout d_m | drive n_y], each of L values: the first two are the MLP's input.
//
// Synapses: in a layer that reads its own activity they are summed step by step, four branches side by side. Branches
// are sorted by their number of synapses to be summed, so that four neighbours have nearly the same (sliced ELLPACK);
// the short ones are filled up with synapses of weight 0 on a channel that is always silent. On the way back the
// same sweep takes only the synapses on the layer's own activity (`loops`). In a layer that does not read itself
// nothing waits for anything: its sums, and the gradient of its input, are taken for a block of steps at once, from
// the list `feed` of the synapses on input channels.
template <class R, int L> struct Layer {
    using V = Lanes<R, L>;
    const Call &c;
    const int64_t B, T, n_in, N, D, K, M, H, Y, S, Q, rows, fan; // S = N·n_y activity channels, Q tiles
    const int64_t slots;                                         // of a unit's sweep, fillers included
    int64_t *feed_start;                                         // (N, D + 1)
    int32_t *feed_source, *feed_place;                           // (N, D·K)
    R *feed_weight;
    int32_t *sweep_size;                                         // (N, D)
    int32_t *sweep_count, *sweep_branch;                         // (N, quads), (N, quads, 4): -1 is no branch
    int32_t *sweep_source, *sweep_place;                         // (N, slots), the source already times L
    R *sweep_weight;
    R *weight1, *weight2;                                        // transposed: (N, D + M, H), (N, fan, M)
    R *mask_synapse, *mask_memory, *mask_recurrent;              // (N, Q, D·K, L), (N, Q, M, L), (Q, S + 1, L)
    int64_t *earliest;                                           // (Q,) first step at which a sequence of a tile ends
    std::atomic<bool> recurrent{false}; // whether any synapse reads the layer's own activity

    static constexpr int64_t quad = 4;
    const int64_t quads;

    // A stream holds one value for each step of a block and each sequence. Streams lie `pitch` apart, an odd number
    // of cache lines, so that the same place of many streams does not fall into the same few cache sets.
    static constexpr int64_t W = REGISTER_BYTES / sizeof(R), line = 64 / sizeof(R);
    const int64_t length, pitch;

    // Rows that fill whole cache lines.
    static int64_t whole(int64_t rows) {
        constexpr int64_t few = line > L ? line / L : 1;
        return (rows + few - 1) / few * few;
    }

    Layer(const Call &call, Arena &arena, bool forward)
        : c(call), B(c.batch), T(c.steps), n_in(c.inputs), N(c.units), D(c.branches), K(c.synapses), M(c.memory),
          H(c.hidden), Y(c.outputs), S(N * Y), Q((B + L - 1) / L), rows(whole(D + 2 * M + H + Y)), fan(H ? H : D + M),
          slots((D + quad - 1) / quad * quad * K), quads((D + quad - 1) / quad),
          length((Q * c.block * L + W - 1) / W * W), pitch((length + line - 1) / line / 2 * 2 * line + line) {
        feed_start = arena.take<int64_t>(N * (D + 1));
        feed_source = arena.take<int32_t>(N * D * K);
        feed_place = arena.take<int32_t>(N * D * K);
        feed_weight = arena.take<R>(N * D * K);
        sweep_size = arena.take<int32_t>(N * D);
        sweep_count = arena.take<int32_t>(N * quads);
        sweep_branch = arena.take<int32_t>(N * quads * quad);
        sweep_source = arena.take<int32_t>(N * slots);
        sweep_place = arena.take<int32_t>(N * slots);
        sweep_weight = arena.take<R>(N * slots);
        weight1 = forward ? arena.take<R>(N * (D + M) * H) : nullptr;
        weight2 = forward ? arena.take<R>(N * fan * M) : nullptr;
        mask_synapse = c.mask_synapse ? arena.take<R>(N * Q * D * K * L) : nullptr;
        mask_memory = c.mask_memory ? arena.take<R>(N * Q * M * L) : nullptr;
        mask_recurrent = c.mask_recurrent ? arena.take<R>(Q * (S + 1) * L) : nullptr;
        earliest = arena.take<int64_t>(Q);
        for (int64_t b = 0; b < B && arena.real(); b++)
            if (b % L == 0 || c.last[b] < earliest[b / L]) earliest[b / L] = c.last[b];
    }

    R *record(R *tape, int64_t t, int64_t n, int64_t q) const { return tape + ((t * N + n) * Q + q) * rows * L; }

    // The rows (count, L) of tile q of one of (B, ..., count) tensors: value i of sequence b lies at b·stride + i.
    // Sequences past the batch read zeros.
    void gather(R *RESTRICT to, const R *RESTRICT from, int64_t stride, int64_t q, int64_t count) const {
        int64_t present = B - q * L < L ? B - q * L : L;
        for (int64_t i = 0; i < count; i++)
            for (int64_t l = 0; l < L; l++) to[i * L + l] = l < present && from ? from[(q * L + l) * stride + i] : R(0);
    }

    // The opposite, for the sequences that exist and, given a step, whose last one it is.
    void scatter(R *RESTRICT to, const R *RESTRICT from, int64_t stride, int64_t q, int64_t count,
                 int64_t step = -1) const {
        for (int64_t l = 0; l < L && q * L + l < B; l++)
            if (step < 0 || c.last[q * L + l] == step)
                for (int64_t i = 0; i < count; i++) to[(q * L + l) * stride + i] = from[i * L + l];
    }

    // Whether any sequence of tile q has its last valid step at t.
    bool ends(int64_t t, int64_t q) const {
        if (t < earliest[q]) return false;
        for (int64_t b = q * L; b < B && b < (q + 1) * L; b++)
            if (c.last[b] == t) return true;
        return false;
    }

    // Pack this member's share of units.
    void pack(Range units, bool forward, Team &team) {
        bool loops = false;
        for (int64_t i = units.begin * D * K; i < units.end * D * K; i++) loops |= c.connectome[i] >= n_in;
        if (loops) recurrent.store(true);
        team.wait();
        for (int64_t n = units.begin; n < units.end; n++) {
            pack_feed(n);
            if (recurrent.load()) pack_sweep(n, forward ? 0 : n_in);
            if (forward && H) transpose(weight1 + n * (D + M) * H, (const R *)c.weight1 + n * (D + M) * H, H, D + M);
            if (forward) transpose(weight2 + n * fan * M, (const R *)c.weight2 + n * fan * M, M, fan);
            for (int64_t q = 0; q < Q; q++) {
                int64_t item = n * Q + q;
                if (mask_synapse)
                    gather(mask_synapse + item * D * K * L, (const R *)c.mask_synapse + n * D * K, N * D * K, q, D * K);
                if (mask_memory) gather(mask_memory + item * M * L, (const R *)c.mask_memory + n * M, N * M, q, M);
                if (mask_recurrent)
                    gather(mask_recurrent + (q * (S + 1) + n * Y) * L, (const R *)c.mask_recurrent + n * Y, S, q, Y);
            }
        }
    }

    void pack_feed(int64_t n) {
        const int64_t *source = c.connectome + n * D * K;
        const R *weight = (const R *)c.synapse + n * D * K;
        int64_t *start = feed_start + n * (D + 1), count = 0;
        for (int64_t j = 0; j < D; j++) {
            start[j] = count;
            for (int64_t i = j * K; i < (j + 1) * K; i++) {
                if (source[i] < 0 || source[i] >= n_in) continue;
                feed_source[n * D * K + count] = (int32_t)source[i];
                feed_place[n * D * K + count] = (int32_t)i;
                feed_weight[n * D * K + count++] = (R)c.input_scale * weight[i];
            }
        }
        start[D] = count;
    }

    // The sweep over synapses whose source is `first` or above; it reads a table of the channels from there on.
    void pack_sweep(int64_t n, int64_t first) {
        const int64_t *source = c.connectome + n * D * K;
        const R *weight = (const R *)c.synapse + n * D * K;
        int32_t *size = sweep_size + n * D, largest = 0;
        for (int64_t j = 0; j < D; j++) {
            size[j] = 0;
            for (int64_t i = j * K; i < (j + 1) * K; i++) size[j] += source[i] >= first;
            if (size[j] > largest) largest = size[j];
        }
        int32_t *count = sweep_count + n * quads, *branch = sweep_branch + n * quads * quad;
        int32_t *from = sweep_source + n * slots, *place = sweep_place + n * slots;
        R *w = sweep_weight + n * slots;
        int64_t placed = 0;
        for (int32_t synapses = largest; synapses >= 0; synapses--)
            for (int64_t j = 0; j < D; j++)
                if (size[j] == synapses) branch[placed++] = (int32_t)j;
        while (placed < quads * quad) branch[placed++] = -1;
        int64_t at = 0;
        for (int64_t g = 0; g < quads; g++) {
            int64_t length = size[branch[g * quad]]; // the first of four is the longest
            for (int64_t lane = 0; lane < quad; lane++) {
                int64_t j = branch[g * quad + lane], slot = at + lane;
                for (int64_t i = j * K; j >= 0 && i < (j + 1) * K; i++) {
                    if (source[i] < first) continue;
                    from[slot] = (int32_t)((source[i] - first) * L);
                    place[slot] = (int32_t)i;
                    w[slot] = (R)c.input_scale * weight[i];
                    slot += quad;
                }
                for (; slot < at + length * quad; slot += quad) {
                    from[slot] = (int32_t)((n_in + S - first) * L);
                    place[slot] = 0;
                    w[slot] = 0;
                }
            }
            count[g] = (int32_t)length;
            at += length * quad;
        }
    }

    static void transpose(R *RESTRICT to, const R *RESTRICT from, int64_t rows, int64_t columns) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < columns; k++) to[k * rows + i] = from[i * columns + k];
    }

    // Between a step of a (B, T, count) tensor and the lanes of tile q, channel i's at lanes + i·stride; W sequences by
    // W channels at a time. Sequences past the batch give zeros and take nothing.
    static constexpr int64_t square = L < W ? L : W;
    using Row = Lanes<R, square>;

    INLINE void to_lanes(R *RESTRICT lanes, int64_t stride, const R *RESTRICT tensor, int64_t count, Range channels,
                         const R *RESTRICT mask, int64_t q, int64_t t) const {
        for (int64_t first = 0; first < L; first += square) {
            int64_t b0 = q * L + first, i = channels.begin;
            for (; i + square <= channels.end; i += square) {
                Row v[square];
#pragma GCC unroll 16
                for (int k = 0; k < square; k++) {
                    v[k] = b0 + k < B ? Row::load_unaligned(tensor + ((b0 + k) * T + t) * count + i) : Row::all(0);
                    if (mask && b0 + k < B) v[k] = v[k] * Row::load_unaligned(mask + (b0 + k) * count + i);
                }
                turn(v);
#pragma GCC unroll 16
                for (int k = 0; k < square; k++) v[k].store(lanes + (i + k) * stride + first);
            }
            for (; i < channels.end; i++)
                for (int64_t k = 0; k < square; k++) {
                    R x = b0 + k < B ? tensor[((b0 + k) * T + t) * count + i] : R(0);
                    lanes[i * stride + first + k] = mask && b0 + k < B ? x * mask[(b0 + k) * count + i] : x;
                }
        }
    }

    INLINE void from_lanes(R *RESTRICT tensor, int64_t count, Range channels, const R *RESTRICT mask, int64_t q,
                           int64_t t, const R *RESTRICT lanes, int64_t stride) const {
        for (int64_t first = 0; first < L; first += square) {
            int64_t b0 = q * L + first, i = channels.begin;
            for (; i + square <= channels.end; i += square) {
                Row v[square];
#pragma GCC unroll 16
                for (int k = 0; k < square; k++) v[k] = Row::load(lanes + (i + k) * stride + first);
                turn(v);
#pragma GCC unroll 16
                for (int k = 0; k < square; k++) {
                    if (b0 + k >= B) break;
                    if (mask) v[k] = v[k] * Row::load_unaligned(mask + (b0 + k) * count + i);
                    v[k].store_unaligned(tensor + ((b0 + k) * T + t) * count + i);
                }
            }
            for (; i < channels.end; i++)
                for (int64_t k = 0; k < square && b0 + k < B; k++)
                    tensor[((b0 + k) * T + t) * count + i] =
                        lanes[i * stride + first + k] * (mask ? mask[(b0 + k) * count + i] : R(1));
        }
    }

    // Channels of a (B, T, count) tensor as streams: to[channel·pitch + (q·block + t - t0)·L + lane], steps t0..t0+block
    // of which those below `end` are read (from t - shift, if that is not negative) and the others are zero.
    void streams(R *RESTRICT to, const R *RESTRICT from, int64_t count, Range channels, const R *RESTRICT mask,
                 int64_t t0, int64_t end, int64_t shift) const {
        for (int64_t q = 0; q < Q; q++)
            for (int64_t t = t0; t < t0 + c.block; t++) {
                R *lanes = to + (q * c.block + t - t0) * L;
                if (t < end && t >= shift) to_lanes(lanes, pitch, from, count, channels, mask, q, t - shift);
                else
                    for (int64_t i = channels.begin; i < channels.end; i++) V::all(0).store(lanes + i * pitch);
            }
    }
};
