// The functions Python calls. Compiled once per instruction set; see hatch_build.py.
#include "backward.h"
#include "forward.h"
#include "step.h"

// What each function does for tiles of L sequences in numbers of type R.
template <class R, int L> struct Run {
    static int64_t forward(const Call &call) { return run<Forward<R, L>>(call, call.workspace); }
    static int64_t backward(const Call &call) { return run<Backward<R, L>>(call, call.workspace); }
    static int64_t forward_bytes(const Call &call) { return run<Forward<R, L>>(call, nullptr); }
    static int64_t backward_bytes(const Call &call) { return run<Backward<R, L>>(call, nullptr); }
    static int64_t carry_bytes(const Call &call) {
        Team team(1);
        Arena arena(nullptr), state(nullptr);
        return Backward<R, L>(call, arena, team).carve(state);
    }

  private:
    template <class Pass> static int64_t run(const Call &call, void *workspace) {
        Team team(call.threads);
        Arena arena(workspace);
        Pass pass(call, arena, team);
        if (workspace) team.run(pass);
        return arena.bytes();
    }
};

#define EXPORT(NAME)                                                                                                   \
    extern "C" __attribute__((visibility("default"))) int64_t elm_##NAME(const Call *call, int64_t bytes) {           \
        if (bytes == 8 && call->lanes == 8) return Run<double, 8>::NAME(*call);                                        \
        if (bytes == 4 && call->lanes == 8) return Run<float, 8>::NAME(*call);                                         \
        if (bytes == 4 && call->lanes == 16) return Run<float, 16>::NAME(*call);                                       \
        if (bytes == 4 && call->lanes == 32) return Run<float, 32>::NAME(*call);                                       \
        return -1;                                                                                                     \
    }

EXPORT(forward)        // run it; `bytes`: 4 for float, 8 for double; -1: there is no such kernel
EXPORT(backward)       // the same
EXPORT(forward_bytes)  // workspace a call needs
EXPORT(backward_bytes) // the same
EXPORT(carry_bytes)    // of the adjoint that backward calls hand on

template <class Function> static int64_t with_step(const Call &call, int64_t bytes, Function function) {
    const bool narrow = call.inputs + call.units * call.outputs < 65536;
    if (bytes == 8) return narrow ? function(Step<double, uint16_t>(call)) : function(Step<double, int32_t>(call));
    return narrow ? function(Step<float, uint16_t>(call)) : function(Step<float, int32_t>(call));
}

// Bytes of a layer's packed weights, which are written where call->packed is not null.
extern "C" __attribute__((visibility("default"))) int64_t elm_pack(const Call *call, int64_t bytes) {
    return with_step(*call, bytes, [](auto step) { return step.pack(); });
}

// One step of one sequence through `count` packed layers, each reading what the one before wrote. -2: no memory left.
extern "C" __attribute__((visibility("default"))) int64_t elm_step(const Call *layers, int64_t count, int64_t bytes) {
    for (int64_t i = 0; i < count; i++)
        if (int64_t error = with_step(layers[i], bytes, [](auto step) { return step.run(); })) return error;
    return 0;
}

extern "C" __attribute__((visibility("default"))) int64_t elm_call_bytes() { return sizeof(Call); }

// Take threads from an OpenMP library's pool: its GOMP_parallel, omp_get_thread_num and omp_get_num_threads.
extern "C" __attribute__((visibility("default"))) void elm_borrow_pool(void *parallel, void *number, void *count) {
    pool = {(decltype(pool.parallel))parallel, (int (*)())number, (int (*)())count};
}

// Whether this machine can run code compiled for an instruction set.
extern "C" __attribute__((visibility("default"))) int64_t elm_machine_has(const char *name) {
#if defined(__x86_64__)
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "plain");
}
