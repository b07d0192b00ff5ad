// Vectors. `Lanes<R, L>`: one value for each of L sequences. `Wide<R>`: the machine's widest register, for streams.
//
// Written with the compiler's vector extensions, so one text serves AVX-512, AVX2, NEON and plain C++; the build
// compiles it once for each, and `REGISTER_BYTES` says how wide a register is there.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define REGISTER_BYTES 64
#define REGISTERS 32
#elif defined(__AVX2__)
#define REGISTER_BYTES 32
#define REGISTERS 16
#elif defined(__aarch64__)
#define REGISTER_BYTES 16
#define REGISTERS 32
#else
#define REGISTER_BYTES 16
#define REGISTERS 16
#endif

#define INLINE inline __attribute__((always_inline))
#define RESTRICT __restrict__

template <class R> struct Bits;
template <> struct Bits<float> {
    using Int = int32_t;
    static constexpr float shift = 12582912.f; // 1.5·2^23: adding it rounds to a whole number, kept in the low bits
    static constexpr int mantissa = 23, degree = 7;
    static constexpr Int one = 0x3f800000;
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f, tanh_one = 9.1f;
};
template <> struct Bits<double> {
    using Int = int64_t;
    static constexpr double shift = 6755399441055744.; // 1.5·2^52
    static constexpr int mantissa = 52, degree = 13;
    static constexpr Int one = 0x3ff0000000000000;
    static constexpr double ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b398p-40, tanh_one = 20.;
};

template <class R, int L> struct Lanes {
    static constexpr int W = L * sizeof(R) < REGISTER_BYTES ? L : REGISTER_BYTES / sizeof(R); // lanes per register
    static constexpr int G = L / W;                                                           // registers
    typedef R Register __attribute__((vector_size(W * sizeof(R)), may_alias));
    typedef typename Bits<R>::Int IntRegister __attribute__((vector_size(W * sizeof(R)), may_alias));
    Register r[G];

    static INLINE Lanes load(const R *p) {
        Lanes v;
        for (int g = 0; g < G; g++) v.r[g] = *(const Register *)(p + g * W);
        return v;
    }
    static INLINE Lanes all(R x) {
        Lanes v;
        for (int g = 0; g < G; g++) v.r[g] = x - Register{};
        return v;
    }
    static INLINE Lanes load_unaligned(const R *p) {
        Lanes v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    INLINE void store_unaligned(R *p) const { memcpy(p, this, sizeof *this); }
    INLINE void store(R *p) const {
        for (int g = 0; g < G; g++) *(Register *)(p + g * W) = r[g];
    }
    INLINE R sum() const {
        Register s = r[0];
        for (int g = 1; g < G; g++) s += r[g];
        R total = 0;
        for (int i = 0; i < W; i++) total += s[i];
        return total;
    }
};

#define EACH for (int g = 0; g < Lanes<R, L>::G; g++)
#define OF template <class R, int L> INLINE Lanes<R, L>
OF operator+(Lanes<R, L> a, Lanes<R, L> b) { EACH a.r[g] += b.r[g]; return a; }
OF operator-(Lanes<R, L> a, Lanes<R, L> b) { EACH a.r[g] -= b.r[g]; return a; }
OF operator*(Lanes<R, L> a, Lanes<R, L> b) { EACH a.r[g] *= b.r[g]; return a; }
OF operator/(Lanes<R, L> a, Lanes<R, L> b) { EACH a.r[g] /= b.r[g]; return a; }
OF operator*(R s, Lanes<R, L> a) { EACH a.r[g] *= s; return a; }
OF operator+(Lanes<R, L> a, R s) { EACH a.r[g] += s; return a; }
OF operator-(R s, Lanes<R, L> a) { EACH a.r[g] = s - a.r[g]; return a; }
OF add_product(Lanes<R, L> sum, R s, Lanes<R, L> a) { EACH sum.r[g] += s * a.r[g]; return sum; }
OF add_product(Lanes<R, L> sum, Lanes<R, L> a, Lanes<R, L> b) { EACH sum.r[g] += a.r[g] * b.r[g]; return sum; }
// a where u > 0, else 0
OF where_positive(Lanes<R, L> u, Lanes<R, L> a) {
    EACH a.r[g] = u.r[g] > 0 ? a.r[g] : typename Lanes<R, L>::Register{};
    return a;
}
// a where u > 0 or u is NaN, else 0: ReLU of a NaN stays a NaN
OF where_not_negative(Lanes<R, L> u, Lanes<R, L> a) {
    EACH a.r[g] = u.r[g] <= 0 ? typename Lanes<R, L>::Register{} : a.r[g];
    return a;
}
OF absolute(Lanes<R, L> a) { EACH a.r[g] = a.r[g] < 0 ? -a.r[g] : a.r[g]; return a; }

// tanh(x) = sign(x)·e/(e + 2) with e = expm1(2|x|): accurate relative to the result, also near 0. expm1 by the Taylor
// series on |r| ≤ ln 2/2 after 2|x| = n·ln 2 + r.
OF tanh(Lanes<R, L> x) {
    using V = Lanes<R, L>;
    using Register = typename V::Register;
    using Ints = typename V::IntRegister;
    using B = Bits<R>;
    V result;
    EACH {
        Register a = x.r[g] < 0 ? -x.r[g] : x.r[g];
        Register limit = B::tanh_one - Register{};
        a = a > limit ? limit : a;
        a += a;
        Register shifted = a * R(1.4426950408889634) + B::shift;
        Register n = shifted - B::shift;
        Register r = a - n * B::ln2_high - n * B::ln2_low;
        R factorial[B::degree + 1] = {1};
        for (int k = 1; k <= B::degree; k++) factorial[k] = factorial[k - 1] * k;
        Register series = R(1) / factorial[B::degree] - Register{};
        for (int k = B::degree - 1; k > 0; k--) series = series * r + R(1) / factorial[k];
        series *= r; // expm1(r)
        Ints bits = ((Ints)shifted << B::mantissa) + B::one;
        Register scale = (Register)bits; // 2^n
        Register e = scale * series + (scale - R(1));
        Register t = e / (e + R(2));
        result.r[g] = x.r[g] < 0 ? -t : t;
    }
    return result;
}
OF sigmoid(Lanes<R, L> x) { return R(.5) * tanh(R(.5) * x) + R(.5); }
#undef EACH
#undef OF

template <class R> using Wide = Lanes<R, REGISTER_BYTES / sizeof(R)>;

// The sums of W registers of W lanes as the lanes of one: in the round with lane bit `Bit`, registers whose numbers
// differ in that bit are folded into one, which holds sums for the first where the bit of the lane is 0.
template <class R, int Bit = 1> static INLINE Wide<R> sums(Wide<R> *v) {
    constexpr int W = Wide<R>::W;
    if constexpr (Bit == W) return v[0];
    else {
        typename Wide<R>::IntRegister keep, swap;
        for (int i = 0; i < W; i++) keep[i] = i & Bit ? i + W : i, swap[i] = i & Bit ? (i ^ Bit) + W : i ^ Bit;
#pragma GCC unroll 16
        for (int i = 0; i < W; i += 2 * Bit) {
            auto a = v[i].r[0], b = v[i + Bit].r[0];
            v[i].r[0] = __builtin_shuffle(a, b, keep) + __builtin_shuffle(a, b, swap);
        }
        return sums<R, 2 * Bit>(v);
    }
}


// Turn W registers of W lanes in place (transpose them): round by round, the off-diagonal halves of pairs change places.
template <class V> static INLINE void turn(V *v) {
    constexpr int W = V::W;
    static_assert(V::G == 1);
#pragma GCC unroll 4
    for (int bit = 1; bit < W; bit *= 2) {
        typename V::IntRegister low, high;
        for (int l = 0; l < W; l++) low[l] = l & bit ? (l ^ bit) + W : l, high[l] = l & bit ? l + W : l ^ bit;
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            if (!(i & bit)) {
                auto a = v[i].r[0], b = v[i + bit].r[0];
                v[i].r[0] = __builtin_shuffle(a, b, low);
                v[i + bit].r[0] = __builtin_shuffle(a, b, high);
            }
    }
}
