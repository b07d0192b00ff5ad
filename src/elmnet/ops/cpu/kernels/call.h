// What Python hands to a kernel: sizes, numbers, pointers. Mirrored field by field in ../library.py (`Call`).
//
// Sizes as in elmnet.ops.types: B batch, T steps, n_in inputs, N units, d_tree branches, d_s synapses, d_m memory,
// n_y outputs; d_mlp hidden (0: the MLP is one affine map). All tensors are dense and row-major, of one real type.
#pragma once
#include <cstdint>

enum MlpActivation : int64_t { RELU2, RELU, SILU };
enum Activation : int64_t { IDENTITY, RELU_OUT, SPIKE };

struct Call {
    int64_t batch, steps, inputs, units, branches, synapses, memory, hidden, outputs;
    int64_t begin, end;       // the steps this call runs
    int64_t threads;          // at most
    int64_t lanes, block;     // sequences per tile; steps per block
    int64_t mlp_activation, activation, filtered, highpassed;
    int64_t keep;             // forward: fill the tape; backward: 1 = goes on from `carry`, 0 = starts at the end
    double branch_decay, highpass_decay, input_scale, surrogate_gain;

    const void *x;                                                      // (B, T, n_in)
    const void *memory0, *branch0, *highpass0, *activity0;              // state before step `begin`
    const int64_t *connectome;                                          // (N, d_tree·d_s), -1: none
    const void *synapse, *weight1, *bias1, *weight2, *bias2;            // weight1, bias1 null without hidden layer
    const void *readout, *bias, *decay, *gain;
    const void *mask_input, *mask_recurrent, *mask_synapse, *mask_memory; // null: keep everything
    const int64_t *last;                                                // (B,) last valid step of each sequence

    void *out;                                                          // (B, T, N·n_y)
    void *memory1, *branch1, *highpass1, *activity1;                    // state after each sequence's last step
    void *memory2, *branch2, *highpass2, *activity2;                    // state after step end - 1, or null
    void *see_branch, *see_mlp, *see_memory, *see_readout;              // signals (T, N, tiles, rows, lanes), or null
    void *tape;                                                         // (end - begin, N, tiles, rows, lanes)

    const void *grad_out, *grad_memory1, *grad_branch1, *grad_highpass1, *grad_activity1; // null: zero
    const void *grad_branch, *grad_mlp, *grad_memory, *grad_readout;                      // of signals; null: zero
    void *carry;                                                        // adjoint of the state, between calls
    void *grad_x, *grad_memory0, *grad_branch0, *grad_highpass0, *grad_activity0;         // null: not wanted
    void *grad_synapse, *grad_weight1, *grad_bias1, *grad_weight2, *grad_bias2;           // added to, not overwritten
    void *grad_readout_weight, *grad_bias, *grad_decay, *grad_gain;

    void *workspace;
    void *packed; // `step` only: see step.h
};
