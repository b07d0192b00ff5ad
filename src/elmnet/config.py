"""What a network is: frozen, validated descriptions without a single tensor.

`NeuronConfig` (one Expressive Leaky Memory neuron) is part of `LayerConfig` (N such neurons and their wiring), which
is part of `NetworkConfig` (a stack of layers and its read-out). Every configuration reads and writes plain
dictionaries strictly: an unknown key, a wrong type or a value out of range is refused in words.

Source of all equations and published values: Spieler, Martius, Levina, "Scaling Laws and Tradeoffs in Recurrent
Networks of Expressive Neurons" (arXiv:2605.12049, 2026).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, cast

from elmnet.errors import ConfigError
from elmnet.strict import Config

MlpActivation = Literal["relu2", "relu", "silu"]
OutputActivation = Literal["identity", "relu", "spike"]


@dataclass(frozen=True, kw_only=True)
class NeuronConfig(Config):
    """One ELM neuron. Times (`tau_*`, `dt`) share one unit; with dt = 1 that is one time step."""

    memory: int = 5
    """d_m, leaky memory units: the main dial of complexity."""
    branches: int = 30
    """d_tree, dendritic branches."""
    synapses: int = 10
    """d_s, synapses per branch; the connectivity is k_c = branches · synapses."""
    hidden: int | None = None
    """d_mlp, width of the MLP's hidden layers; None: 2 · memory."""
    hidden_layers: int = 1
    """L, hidden layers of the MLP; 0 makes it one affine map."""
    mlp_activation: MlpActivation = "relu2"
    outputs: int = 1
    """Outputs per neuron, each with its own read-out row and bias."""
    activation: OutputActivation = "relu"
    dt: float = 1.0
    tau_min: float = 1.0
    """Shortest memory timescale; the d_m timescales are log-spaced from here to `tau_max`, both included."""
    tau_max: float = 500.0
    tau_branch: float | None = None
    """τ_b, low-pass filter of the branches; None: off."""
    tau_highpass: float | None = None
    """τ_r, high-pass filter of the read-out; None: off."""
    timescale_ratio: float = 5.0
    """λ: how much faster input is absorbed than memory is forgotten."""
    lambda_as_timescale_ratio: bool = True
    """True: absorb 1 - exp(-λ·dt/τ_m); False: absorb λ·(1 - exp(-dt/τ_m))."""
    input_scale: float = 1.0
    learn_timescales: bool = False
    tau_range_scale: float = 10.0
    """s: learnable timescales stay within [tau_min/s, tau_max·√s]."""
    nonnegative_synapses: bool = False
    """Pass the synaptic weights through ReLU."""
    synapse_init: float | None = None
    """None: U(-1, 1)/√d_s; a number v: every weight starts at v/√d_s."""
    bias_init: tuple[float, ...] = ()
    """Initial bias of each output; empty: zeros."""
    memory_dropout: float = 0.0
    """Variational dropout of the MLP output, kept values scaled by 1/√(1-p)."""
    synapse_dropout: float = 0.0
    """Variational dropout of synapse activations, kept values scaled by 1/(1-p)."""
    surrogate_gain: float = 1.0
    """g of the spike's surrogate gradient `g/(100·|u|+1)²`."""

    def _check(self) -> None:
        for name in ("memory", "branches", "synapses", "outputs"):
            self._require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        self._require(self.hidden is None or self.hidden >= 1, f"hidden must be at least 1, got {self.hidden}")
        self._require(self.hidden_layers >= 0, f"hidden_layers must not be negative, got {self.hidden_layers}")
        for name in ("dt", "tau_min", "tau_max", "tau_branch", "tau_highpass", "timescale_ratio", "surrogate_gain"):
            value = getattr(self, name)
            self._require(value is None or value > 0, f"{name} must be positive, got {value}")
            fits = value is None or 1e-10 <= value <= 1e30
            self._require(fits, f"{name} must lie in 1e-10..1e30, where float32 can take its gradient, got {value}")
        self._require(self.tau_min <= self.tau_max, f"tau_min {self.tau_min} exceeds tau_max {self.tau_max}")
        self._require(self.tau_range_scale > 1, f"tau_range_scale must exceed 1, got {self.tau_range_scale}")
        self._require(
            len(self.bias_init) in (0, self.outputs),
            f"bias_init needs one value per output ({self.outputs}) or none, got {len(self.bias_init)}",
        )
        for name in ("memory_dropout", "synapse_dropout"):
            value = getattr(self, name)
            self._require(0 <= value < 1, f"{name} must lie in [0, 1), got {value}")

    @property
    def connectivity(self) -> int:
        """k_c = d_tree · d_s, synapses (one weight each) of the neuron."""
        return self.branches * self.synapses

    @property
    def sizes(self) -> dict[str, int | None]:
        """d_m, d_mlp, d_tree and d_s, as `NetworkConfig.with_hidden` takes them."""
        return {name: getattr(self, name) for name in ("memory", "hidden", "branches", "synapses")}

    @property
    def expansion(self) -> float:
        """d_mlp/d_m."""
        return 2.0 if self.hidden is None else self.hidden / self.memory

    def with_memory(self, memory: int) -> Self:
        """The neuron with another d_m, and d_mlp in the same proportion to it."""
        hidden = None if self.hidden is None else max(1, round(self.expansion * memory))
        return self.replace(memory=memory, hidden=hidden)

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """Widths of the MLP from its input [branches, decayed memory] to its output (d_m)."""
        hidden = 2 * self.memory if self.hidden is None else self.hidden
        return (self.branches + self.memory, *[hidden] * self.hidden_layers, self.memory)

    @property
    def timescales(self) -> tuple[float, ...]:
        """The initial τ_m, log-spaced; a single memory unit gets tau_min."""
        low, high = math.log(self.tau_min), math.log(self.tau_max)
        step = (high - low) / max(self.memory - 1, 1)
        inner = [math.exp(low + step * i) for i in range(1, self.memory - 1)]
        return (self.tau_min, *inner, self.tau_max)[: self.memory]


@dataclass(frozen=True, kw_only=True)
class WiringConfig(Config):
    """A wiring that has settings; those that have none are written as their name alone (`elmnet.wiring`)."""

    name: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The wiring that `name` says."""
        if cls is not WiringConfig or not isinstance(data, Mapping):
            return super().from_dict(data)
        name = data.get("name")
        if name not in WIRINGS_WITH_SETTINGS:
            known = ", ".join(WIRINGS_WITH_SETTINGS)
            raise ConfigError(f"name must be a wiring that has settings ({known}), got {name!r}")
        return cast(Self, WIRINGS_WITH_SETTINGS[name].from_dict(data))


@dataclass(frozen=True, kw_only=True)
class TopographicWiring(WiringConfig):
    """Receptive fields in order along the input axis; recurrent sources at random."""

    name: Literal["topographic"] = "topographic"
    fields: int | None = 16
    """F, receptive fields; unit i of N has field ⌊i·F/N⌋. None: every unit reads all inputs."""
    overlap: float = 0.2
    """Part of a field that the next one shares."""

    def _check(self) -> None:
        self._require(self.fields is None or self.fields >= 1, f"fields must be at least 1, got {self.fields}")
        self._require(0 <= self.overlap < 1, f"overlap must lie in [0, 1), got {self.overlap}")


@dataclass(frozen=True, kw_only=True)
class ModularWiring(TopographicWiring):
    """Modules of neighbouring units that mostly read their own kind."""

    name: Literal["modular"] = "modular"  # type: ignore[assignment]
    fields: int | None = None
    modules: int = 4
    """M; unit i of N belongs to module ⌊i·M/N⌋."""
    outside: float = 0.1
    """Probability that a recurrent synapse reads another module."""

    def _check(self) -> None:
        super()._check()
        self._require(self.modules >= 2, f"modules must be at least 2, got {self.modules}")
        self._require(0 <= self.outside <= 1, f"outside must lie in [0, 1], got {self.outside}")


@dataclass(frozen=True, kw_only=True)
class SmallWorldWiring(TopographicWiring):
    """A ring whose recurrent synapses read near units, but for a few that were rewired (Watts and Strogatz 1998)."""

    name: Literal["small-world"] = "small-world"  # type: ignore[assignment]
    fields: int | None = None
    neighbours: int = 4
    """k, units on either side that count as near."""
    rewire: float = 0.1
    """Probability that a recurrent synapse reads any other unit instead."""

    def _check(self) -> None:
        super()._check()
        self._require(self.neighbours >= 1, f"neighbours must be at least 1, got {self.neighbours}")
        self._require(0 <= self.rewire <= 1, f"rewire must lie in [0, 1], got {self.rewire}")


WIRINGS_WITH_SETTINGS: dict[str, type[WiringConfig]] = {
    "topographic": TopographicWiring,
    "modular": ModularWiring,
    "small-world": SmallWorldWiring,
}


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Config):
    """N neurons with their own weights, wired by a fixed connectome."""

    units: int
    neuron: NeuronConfig = NeuronConfig()
    recurrent_connect: float | None = None
    """ρ, probability that a synapse's source is a unit of this layer; None: N/(n_in+N)."""
    wiring: str | WiringConfig = "random"
    """Name in the registry `elmnet.wiring`; where that wiring has settings, the name stands for their defaults."""
    input_dropout: float = 0.0
    """Variational dropout of the layer's input channels, kept values scaled by 1/(1-p)."""
    recurrent_dropout: float = 0.0
    """The same for the layer's own activity."""

    def _take(self, values: Mapping[str, Any]) -> None:
        wiring = values.get("wiring")
        if isinstance(wiring, str) and wiring in WIRINGS_WITH_SETTINGS:
            values = {**values, "wiring": WIRINGS_WITH_SETTINGS[wiring]()}
        super()._take(values)

    def _check(self) -> None:
        self._require(self.units >= 1, f"units must be at least 1, got {self.units}")
        rho = self.recurrent_connect
        self._require(rho is None or 0 <= rho <= 1, f"recurrent_connect must lie in [0, 1], got {rho}")
        for name in ("input_dropout", "recurrent_dropout"):
            value = getattr(self, name)
            self._require(0 <= value < 1, f"{name} must lie in [0, 1), got {value}")

    @property
    def wiring_name(self) -> str:
        """Name of the wiring, with settings or without."""
        return self.wiring if isinstance(self.wiring, str) else self.wiring.name

    @property
    def outputs(self) -> int:
        """Activity channels of the layer: units · outputs per unit."""
        return self.units * self.neuron.outputs


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """A stack of hidden layers, a read-out layer, and a trained affine map to the outputs."""

    inputs: int
    """n_in, input channels (or number of symbols for token input)."""
    outputs: int
    """n_out."""
    layers: tuple[LayerConfig, ...]
    """The hidden layers, first to last; layer l at step t reads layer l-1 at the same step."""
    readout: Literal["elm", "linear", "none"] | LayerConfig = "elm"
    """`elm`: a layer of n_out small ELM neurons, then an affine map (the published network); a layer of your own,
    then an affine map; `linear`: the affine map alone; `none`: the last layer's activity is the output."""
    token_scale: float | None = None
    """Height of the one-hot vector a token becomes; None: the input is dense."""

    def _check(self) -> None:
        self._require(self.inputs >= 1, f"inputs must be at least 1, got {self.inputs}")
        self._require(self.outputs >= 1, f"outputs must be at least 1, got {self.outputs}")
        self._require(len(self.layers) >= 1, "layers must hold at least one layer")
        last = self.layers[-1].outputs
        self._require(
            self.readout != "none" or last == self.outputs,
            f"without a read-out the last layer's {last} channels must equal outputs = {self.outputs}",
        )

    @cached_property
    def stack(self) -> tuple[LayerConfig, ...]:
        """Every ELM layer that runs, the read-out layer included."""
        if isinstance(self.readout, LayerConfig):
            return (*self.layers, self.readout)
        if self.readout == "elm":
            return (*self.layers, self._default_readout())
        return self.layers

    @property
    def has_affine(self) -> bool:
        """Whether a trained affine map n → n_out follows the last ELM layer."""
        return self.readout != "none"

    @property
    def layer_inputs(self) -> tuple[int, ...]:
        """n_in of every layer of `stack`."""
        return (self.inputs, *[layer.outputs for layer in self.stack[:-1]])

    def _default_readout(self) -> LayerConfig:
        """The published read-out: d_m 3, one affine map, no recurrence, the rest as in the last hidden layer."""
        hidden = self.layers[-1]
        neuron = hidden.neuron.replace(
            memory=3, hidden=None, hidden_layers=0, activation="identity", tau_highpass=None, outputs=1, bias_init=()
        )
        return hidden.replace(units=self.outputs, neuron=neuron, recurrent_connect=0.0, wiring="random")

    def with_hidden(self, *, units: int | None = None, **neuron: Any) -> Self:
        """A copy in which every hidden layer has these units and these neuron settings."""
        layers = [
            layer.replace(units=layer.units if units is None else units, neuron=layer.neuron.replace(**neuron))
            for layer in self.layers
        ]
        return self.replace(layers=tuple(layers))

    @classmethod
    def preset(cls, name: str) -> "NetworkConfig":
        """The published networks: `enwik8`, `shd-adding`, `neuronio`."""
        if name not in _PRESETS:
            raise ConfigError(f"no preset {name!r}; known: {', '.join(_PRESETS)}")
        return _PRESETS[name]


_PRESETS = {
    "enwik8": NetworkConfig(
        inputs=204,
        outputs=204,
        token_scale=3.0,
        layers=(
            LayerConfig(
                units=1024,
                recurrent_connect=0.8,
                neuron=NeuronConfig(
                    memory=15, branches=50, synapses=15, tau_min=0.1, tau_max=100.0, tau_highpass=2.0, input_scale=10.0
                ),
            ),
        ),
    ),
    "shd-adding": NetworkConfig(
        inputs=700,
        outputs=19,
        layers=(
            LayerConfig(
                units=96,
                recurrent_connect=0.25,
                input_dropout=0.2,
                recurrent_dropout=0.2,
                neuron=NeuronConfig(
                    memory=5, branches=30, synapses=10, tau_min=1.0, tau_max=500.0, tau_highpass=5.0, input_scale=10.0
                ),
            ),
        ),
    ),
    "neuronio": NetworkConfig(
        inputs=1278,
        outputs=2,
        readout="none",
        layers=(
            LayerConfig(
                units=1,
                recurrent_connect=0.0,
                wiring="neuronio",
                neuron=NeuronConfig(
                    memory=20,
                    branches=45,
                    synapses=100,
                    outputs=2,
                    activation="identity",
                    tau_max=150.0,
                    tau_branch=5.0,
                    nonnegative_synapses=True,
                    synapse_init=0.5,
                    bias_init=(-5.0, 0.0),
                ),
            ),
        ),
    ),
}
