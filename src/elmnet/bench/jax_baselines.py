"""The same network in JAX, twice: A as researchers write it, B as fast as we could make it in pure JAX on a CPU.

Both cover what the benchmark's cases use: tokens or dense input, one recurrent layer with one hidden MLP layer (ReLU²),
high-pass and ReLU, a read-out layer without hidden MLP layer, an affine map. Written for this comparison.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

# jax 0.10.2's fused small products (YNN) are wrong for A on an AVX-512 CPU from batch 3 on, and four times slower there
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_experimental_ynn_fusion_type="

import jax
import numpy as np
import optax
from jax import numpy as jnp

from elmnet.layer import ELMLayer
from elmnet.network import ELMNetwork

Tree = Any  # nested dictionaries of arrays
COMPRESS = 1.7159


class Baseline:
    """A JAX twin of an ELMNetwork: same weights, wiring and mathematics.

    Args:
        kind: "A" or "B".
        network: copied.
    """

    def __init__(self, kind: Literal["A", "B"], network: ELMNetwork) -> None:
        self._forward = _naive if kind == "A" else _tuned
        self._network = network
        self._scale = network.config.token_scale
        self._fixed, self._parameters = _copy(network)
        self._optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    def loss_and_gradients(self, x: np.ndarray, y: np.ndarray, last_step: bool) -> tuple[float, dict[str, np.ndarray]]:
        """x (B, T) tokens or (B, T, n_in); gradients under the names of the network's parameters."""
        loss, grads = jax.jit(jax.value_and_grad(partial(self._loss, last_step=last_step)))(self._parameters, x, y)
        return float(loss), {name: np.asarray(grad) for name, grad in _names(grads).items()}

    def training_step(self, x: np.ndarray, y: np.ndarray, last_step: bool) -> Callable[[], float]:
        """A function that makes one full step (forward, backward, clipping, Adam) and returns the loss."""

        def step(parameters: Tree, state: Tree, x: Any, y: Any) -> Any:
            loss, grads = jax.value_and_grad(partial(self._loss, last_step=last_step))(parameters, x, y)
            updates, state = self._optimiser.update(grads, state)
            return optax.apply_updates(parameters, updates), state, loss

        compiled = jax.jit(step, donate_argnums=(0, 1))

        parameters = jax.tree.map(jnp.array, self._parameters)
        now = [parameters, self._optimiser.init(parameters)]
        x, y = jnp.asarray(x), jnp.asarray(y)

        def one() -> float:
            *now[:], loss = compiled(*now, x, y)
            jax.block_until_ready(now[0])
            return float(loss)

        return one

    def streaming_step(self) -> Callable[[], None]:
        """A function that makes one time step of one sequence, carrying the state."""
        fixed, parameters = self._fixed, self._parameters
        x = jnp.zeros(self._network.config.inputs).at[0].set(self._scale or 1.0)

        def step(parameters: Tree, state: Tree, x: Any) -> Any:
            state, out = _step(fixed, parameters, state, x)
            return state, _affine(parameters, out)

        compiled = jax.jit(step)
        now = [_initial(fixed, parameters), None]

        def one() -> None:
            now[:] = compiled(parameters, now[0], x)
            jax.block_until_ready(now)

        return one

    def _loss(self, parameters: Tree, x: Any, y: Any, *, last_step: bool) -> Any:
        if self._scale is not None:
            x = jax.nn.one_hot(x, self._network.config.inputs) * self._scale
        logits = self._forward(self._fixed, parameters, x)
        if last_step:
            logits = logits[:, -1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _copy(network: ELMNetwork) -> tuple[list[dict[str, Any]], Tree]:
    """What is fixed of every layer (wiring, decays, numbers), and the trained parameters."""
    fixed, parameters = [], {}
    for i, layer in enumerate(cast(list[ELMLayer], network.layers)):
        weights, dynamics = layer.neurons(), layer.dynamics
        fixed.append(
            {
                "sources": np.asarray(layer.connectome, dtype=np.int32),
                "inputs": layer.inputs,
                "decay": jnp.asarray(weights.decay.detach().numpy()),
                "gain": jnp.asarray(weights.gain.detach().numpy()),
                "scale": dynamics.input_scale,
                "highpass": dynamics.highpass_decay,
                "relu": dynamics.activation == "relu",
            }
        )
        own = {name: p for name, p in layer.neurons.named_parameters() if p.requires_grad}
        parameters[f"layers.{i}.neurons"] = {name: jnp.asarray(p.detach().numpy()) for name, p in own.items()}
    assert network.affine is not None
    parameters["affine"] = {name: jnp.asarray(p.detach().numpy()) for name, p in network.affine.named_parameters()}
    return fixed, parameters


def _names(tree: Tree) -> dict[str, Any]:
    return {f"{group}.{name}": value for group, values in tree.items() for name, value in values.items()}


# A: one neuron, one step; vmapped over neurons, scanned over time, vmapped over the batch


def _neuron(p: Tree, decay: Any, gain: Any, memory: Any, slow: Any, synapses: Any, fixed: dict[str, Any]) -> Any:
    """p: one neuron's parameters; memory (d_m,), slow (1,), synapses (k_c,)."""
    branch = fixed["scale"] * (p["w_s"] * synapses.reshape(p["w_s"].shape)).sum(-1)
    decayed = decay * memory
    h = jnp.concatenate([branch, decayed])
    depth = sum(name.startswith("mlp") for name in p) // 2
    for i in range(depth):
        h = p[f"mlp.{i}.weight"] @ (h if i == 0 else jax.nn.relu(h) ** 2) + p[f"mlp.{i}.bias"]
    memory = decayed + gain * COMPRESS * jnp.tanh(h * (2 / 3))
    y = p["readout"] @ memory
    u = y + p["bias"]
    if fixed["highpass"] is not None:
        slow = fixed["highpass"] * slow + (1 - fixed["highpass"]) * y
        u = u - slow
    return memory, slow, jax.nn.relu(u) if fixed["relu"] else u


def _initial(fixed: list[dict[str, Any]], parameters: Tree) -> Any:
    def zeros(layer: dict[str, Any]) -> Any:
        units, memory = layer["decay"].shape
        return jnp.zeros((units, memory)), jnp.zeros((units, 1)), jnp.zeros((units, 1))

    return [zeros(layer) for layer in fixed]


def _step(fixed: list[dict[str, Any]], parameters: Tree, states: Any, x: Any) -> Any:
    new = []
    for i, (layer, (memory, slow, activity)) in enumerate(zip(fixed, states, strict=True)):
        synapses = jnp.concatenate([x, activity.ravel()])[layer["sources"]]
        cells = jax.vmap(partial(_neuron, fixed=layer))
        state = cells(parameters[f"layers.{i}.neurons"], layer["decay"], layer["gain"], memory, slow, synapses)
        new.append(state)
        x = state[2].ravel()
    return new, x


def _naive(fixed: list[dict[str, Any]], parameters: Tree, x: Any) -> Any:
    def sequence(x: Any) -> Any:
        return jax.lax.scan(partial(_step, fixed, parameters), _initial(fixed, parameters), x)[1]

    return _affine(parameters, jax.vmap(sequence)(x))


def _affine(parameters: Tree, x: Any) -> Any:
    return x @ parameters["affine"]["weight"].T + parameters["affine"]["bias"]


# B: everything without recurrence out of the scan, synapses folded into dense matrices


def _folded(layer: dict[str, Any], weights: Any, first_map: Any, first: int, count: int) -> Any:
    """Channels first..first+count straight to the first affine map's outputs, (count, N·out).

    Between the synapses and that map nothing is non-linear, so their product is one matrix: first the synapses as a
    dense (N, count, d_tree), then times the map (N, out, d_tree). Differentiable in both.
    """
    units, branches, synapses = weights.shape
    sources = layer["sources"]
    here = (sources >= first) & (sources < first + count)
    unit = np.broadcast_to(np.arange(units)[:, None], sources.shape)[here]
    branch = np.broadcast_to(np.repeat(np.arange(branches), synapses), sources.shape)[here]
    place = (jnp.asarray(unit), jnp.asarray(sources[here] - first), jnp.asarray(branch))
    dense = jnp.zeros((units, count, branches)).at[place].add(layer["scale"] * weights.reshape(units, -1)[here])
    return jnp.swapaxes(dense @ jnp.swapaxes(first_map, 1, 2), 0, 1).reshape(count, -1)


def _tuned(fixed: list[dict[str, Any]], parameters: Tree, x: Any) -> Any:
    """x (B, T, n_in) → logits (B, T, n_out); inside, time comes first."""
    x = jnp.swapaxes(x, 0, 1)
    for i, layer in enumerate(fixed):
        x = _tuned_layer(layer, parameters[f"layers.{i}.neurons"], x)
    return jnp.swapaxes(_affine(parameters, x), 0, 1)


def _tuned_layer(layer: dict[str, Any], p: Tree, x: Any) -> Any:
    """x (T, B, channels) → activity (T, B, N)."""
    (units, branches, _), batch, n_in = p["w_s"].shape, x.shape[1], layer["inputs"]
    first, rest = p["mlp.0.weight"], [p[f"mlp.{i}.weight"] for i in range(1, sum(n.startswith("mlp") for n in p) // 2)]
    from_branches, from_memory = first[:, :, :branches], first[:, :, branches:]
    feed = x @ _folded(layer, p["w_s"], from_branches, 0, n_in) + p["mlp.0.bias"].reshape(-1)
    loops = bool((layer["sources"] >= n_in).any())
    recurrent = _folded(layer, p["w_s"], from_branches, n_in, units) if loops else None

    def step(state: Any, feed_t: Any) -> Any:
        memory, slow, activity = state  # (B, N, d_m), (B, N), (B, N)
        decayed = layer["decay"] * memory
        h = feed_t if recurrent is None else feed_t + activity @ recurrent
        h = h.reshape(batch, units, -1) + (from_memory * decayed[:, :, None]).sum(-1)
        for i, weight in enumerate(rest):
            h = (weight * (jax.nn.relu(h) ** 2)[:, :, None]).sum(-1) + p[f"mlp.{i + 1}.bias"]
        memory = decayed + layer["gain"] * COMPRESS * jnp.tanh(h * (2 / 3))
        y = (memory * p["readout"][:, 0]).sum(-1)
        u = y + p["bias"][:, 0]
        if layer["highpass"] is not None:
            slow = layer["highpass"] * slow + (1 - layer["highpass"]) * y
            u = u - slow
        u = jax.nn.relu(u) if layer["relu"] else u
        return (memory, slow, u), u

    zeros = jnp.zeros((batch, units))
    return jax.lax.scan(step, (jnp.zeros((batch, *layer["decay"].shape)), zeros, zeros), feed)[1]
