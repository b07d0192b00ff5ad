"""Networks as graphs for other runtimes: ONNX and `torch.export`, for streaming and for whole sequences.

A streaming graph is one step: input and state in, output and new state out. In ONNX a whole sequence is a `Scan` of
that step, so batch and length stay free; `torch.export` has no public loop yet, so there a sequence is unrolled for
one length. Both are the reference backend's operations with the effective weights folded in: no dropout, no lengths, no
gradient meant. ONNX needs onnx, onnxscript and, to check, onnxruntime: pip install 'elmnet[interop]'.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import elmnet
from elmnet.errors import CheckpointError, ConfigError
from elmnet.files import write_atomic
from elmnet.network import ELMNetwork
from elmnet.ops import LayerState, Masks, Weights, reference
from elmnet.tasks.standard import Standard

OF_A_NEURON = ("synapse", "readout", "bias", "decay", "gain")
"""Effective weights besides the MLP's, by their names in `elmnet.ops.Weights`."""
NEXT = ".next"
"""What a state's name as an output ends in: `layer0.memory` comes in, `layer0.memory.next` goes out."""


def export_onnx(network: ELMNetwork, path: Path, *, sequence: bool = False, standard: Standard | None = None) -> None:
    """Write an ONNX model.

    Args:
        network: in any dtype; the model computes in float32.
        path: the file.
        sequence: True: inputs of any number of steps, (batch, time, ...); False: one step, (batch, ...).
        standard: of the data it was trained on, folded into the graph.

    Raises:
        ConfigError: onnx or onnxscript is missing.
        CheckpointError: the network is too large for one ONNX file (2 GiB), or the data lie too far from zero for
            float32.
    """
    if 4 * sum(tensor.numel() for tensor in network.state_dict().values()) >= 2**31:
        raise CheckpointError("an ONNX file holds at most 2 GiB; this network has more")
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX needs {error.name}: pip install 'elmnet[interop]'") from None
    step = Step(network, standard)
    with _quietly():
        program = torch.onnx.export(
            _exported(step), dynamo=True, input_names=step.inputs, output_names=step.outputs, verbose=False
        )
    assert program is not None
    model = program.model_proto
    if sequence:
        model = _over_time(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "elmnet", elmnet.__version__
    model.doc_string = "ELM Network (arXiv:2605.12049), " + ("a whole sequence" if sequence else "one step")
    about = metadata(network, sequence=sequence, standard=standard)
    onnx.helper.set_model_props(model, {f"elmnet.{k}": v for k, v in about.items()})
    onnx.checker.check_model(model)
    write_atomic(path, model.SerializeToString())


def export_torch(
    network: ELMNetwork, path: Path, *, steps: int | None = None, standard: Standard | None = None
) -> None:
    """Write a `torch.export` program (.pt2) that needs no elmnet to run; metadata in its extra file `elmnet.json`.

    Args:
        network: in any dtype; the program computes in float32.
        path: the file.
        steps: None: one step, (batch, ...); a number: sequences of just so many steps, unrolled.
        standard: of the data it was trained on, folded into the program.
    """
    module = Step(network, standard) if steps is None else Unrolled(network, steps, standard)
    about = json.dumps(metadata(network, sequence=steps is not None, standard=standard))
    buffer = io.BytesIO()
    with _quietly():
        torch.export.save(_exported(module), buffer, extra_files={"elmnet.json": about})
    write_atomic(path, buffer.getvalue())


def metadata(network: ELMNetwork, *, sequence: bool, standard: Standard | None = None) -> dict[str, str]:
    """What a graph's user must know: names, shapes, units, version; and the configuration as JSON."""
    units = "values have none" if standard is None else "x and values in the units of the data (standardised inside)"
    names = {} if standard is None else {name: json.dumps(value) for name, value in standard.about.items()}
    step, config = Step(network), network.config
    dt = ", ".join(f"{layer.neuron.dt:g}" for layer in config.stack)
    time = ", time" if sequence else ""
    kind = ", logits of the classes" if "classes" in names else ""
    x = f"tokens (batch{time}), 0..{config.inputs - 1}" if step.tokens else f"x (batch{time}, {config.inputs})"
    return {
        "version": elmnet.__version__,
        "graph": "sequence" if sequence else "step",
        "inputs": f"{x}; then the state, zeros at the beginning: {', '.join(step.inputs[1:])}",
        "outputs": f"out (batch{time}, {config.outputs}){kind}; then the new state: {', '.join(step.outputs[1:])}",
        **names,
        "units": f"{units}; one step lasts dt = {dt} (layer by layer), in the unit of every tau",
        "config": json.dumps(config.to_dict()),
    }


class Step(nn.Module):
    """One step in plain torch: (x or tokens, states...) → (out, new states...); states that hold nothing are left out.

    Attributes:
        inputs: names of the arguments.
        outputs: names of the results.
        tokens: whether the first argument is (B,) integers instead of (B, n_in).
    """

    def __init__(self, network: ELMNetwork, standard: Standard | None = None) -> None:
        super().__init__()
        self.config, self.standard = network.config, None if standard is None else standard.in_float32()
        self.tokens = network.config.token_scale is not None
        self.layers = [layer.dynamics for layer in network.elm_layers]
        self.shapes = [LayerState(*(t.shape[1:] for t in s)) for s in network.initial_state(1).layers]  # type: ignore[arg-type]
        for i, layer in enumerate(network.elm_layers):
            weights, silence = layer.neurons(), layer.inputs + layer.config.outputs
            self._keep(i, "sources", torch.where(layer.connectome < 0, silence, layer.connectome.long()).flatten())
            for name in OF_A_NEURON:
                self._keep(i, name, getattr(weights, name))
            for k, (weight, bias) in enumerate(weights.mlp):
                self._keep(i, f"mlp{k}_weight", weight)
                self._keep(i, f"mlp{k}_bias", bias)
        self.affine = None
        if network.affine is not None:
            weight, bias = (getattr(network.affine, name, None) for name in ("weight", "bias"))
            n_in, n_out = network.config.stack[-1].outputs, network.config.outputs
            if weight is None or bias is None or weight.shape != (n_out, n_in):
                raise ConfigError(
                    f"the affine map is {network.affine}, the configuration says {n_in} inputs and {n_out} outputs; "
                    "build another head from the configuration (config.replace(outputs=...))"
                )
            self.affine = nn.Linear(n_in, n_out)
            self.affine.load_state_dict({"weight": weight.detach().cpu(), "bias": bias.detach().cpu()})
        names = [f"layer{i}.{name}" for i, _, name in self._states()]
        self.inputs = ["tokens" if self.tokens else "x", *names]
        self.outputs = ["out", *(name + NEXT for name in names)]
        self.eval().requires_grad_(False)

    def _keep(self, i: int, name: str, tensor: Tensor) -> None:
        tensor = tensor.detach().cpu()
        self.register_buffer(f"layer{i}_{name}", tensor.float() if tensor.is_floating_point() else tensor)

    def _states(self) -> Iterator[tuple[int, int, str]]:
        """Layer, position and name of every state tensor that holds something."""
        for i, shapes in enumerate(self.shapes):
            for k, name in enumerate(LayerState._fields):
                if 0 not in shapes[k]:
                    yield i, k, name

    def _weights(self, i: int) -> Weights:
        def of(name: str) -> Tensor:
            return self.get_buffer(f"layer{i}_{name}")

        maps = range(self.layers[i].mlp_layers + 1)
        mlp = tuple((of(f"mlp{k}_weight"), of(f"mlp{k}_bias")) for k in maps)
        return Weights(of("synapse"), mlp, of("readout"), of("bias"), of("decay"), of("gain"))

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step of a batch."""
        if self.tokens:
            hot = x.unsqueeze(-1) == torch.arange(self.config.inputs, device=x.device)
            x = hot.to(torch.float32) * float(self.config.token_scale or 1)
        if self.standard is not None:
            x = self.standard.before(x)
        tensors = dict(zip([(i, k) for i, k, _ in self._states()], states, strict=True))
        new: dict[tuple[int, int], Tensor] = {}
        for i, dynamics in enumerate(self.layers):
            given = [tensors.get((i, k), x.new_zeros(x.shape[0], *shape)) for k, shape in enumerate(self.shapes[i])]
            sources = self.get_buffer(f"layer{i}_sources")
            state, signals = reference.step(x, LayerState(*given), sources, self._weights(i), dynamics, Masks())
            new |= {(i, k): tensor for k, tensor in enumerate(state)}
            x = signals["activity"]
        out = x if self.affine is None else self.affine(x)
        out = out if self.standard is None else self.standard.after(out)
        return (out.clone(), *(new[i, k].clone() for i, k, _ in self._states()))  # no name for two results

    def example(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Arguments: zeros."""
        x = torch.zeros(batch, dtype=torch.int64) if self.tokens else torch.zeros(batch, self.config.inputs)
        return (x, *(torch.zeros(batch, *self.shapes[i][k]) for i, k, _ in self._states()))


class Unrolled(Step):
    """A sequence of a fixed number of steps: (B, T, ...) → (B, T, n_out) and the last state."""

    def __init__(self, network: ELMNetwork, steps: int, standard: Standard | None = None) -> None:
        super().__init__(network, standard)
        if steps < 1:
            raise ConfigError(f"a sequence has at least one step, got {steps}")
        self.steps = steps

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """All steps of a batch."""
        outs = []
        for t in range(self.steps):
            out, *rest = super().forward(x[:, t], *states)
            states = tuple(rest)
            outs.append(out)
        return (torch.stack(outs, 1), *states)

    def example(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Arguments: zeros."""
        x, *states = super().example(batch)
        return (x.unsqueeze(1).repeat_interleave(self.steps, 1), *states)


def _exported(module: Step) -> torch.export.ExportedProgram:
    example = module.example()
    batch = {0: torch.export.Dim("batch")}
    shapes = (batch, tuple(batch for _ in example[1:]))
    with torch.no_grad():
        return torch.export.export(module, example, dynamic_shapes=shapes)


def _over_time(step: Any) -> Any:
    """An ONNX model that scans another one, a single step, over the second axis of its first input."""
    import onnx
    from onnx import helper

    inner = onnx.compose.add_prefix(step, "step/").graph
    x, *states = step.graph.input
    out, *new = step.graph.output
    body = helper.make_graph(
        list(inner.node), "step", [*inner.input[1:], inner.input[0]], [*inner.output[1:], inner.output[0]]
    )
    del body.value_info[:]
    scan = helper.make_node(
        "Scan",
        [*(value.name for value in states), x.name],
        [*(value.name for value in new), out.name],
        name="over_time",
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )

    def in_time(value: Any) -> Any:
        kind = value.type.tensor_type
        rest = [dim.dim_value for dim in kind.shape.dim][1:]
        return helper.make_tensor_value_info(value.name, kind.elem_type, ["batch", "time", *rest])

    graph = helper.make_graph(
        [scan], "sequence", [in_time(x), *states], [in_time(out), *new], initializer=list(inner.initializer)
    )
    return helper.make_model(graph, opset_imports=list(step.opset_import), ir_version=step.ir_version)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks about torchvision and about its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def check_onnx(
    network: ELMNetwork, path: Path, *, steps: int = 20, seed: int = 0, standard: Standard | None = None
) -> float:
    """Run a written model in ONNX Runtime on random input: the largest difference from the network's own output in
    float32, relative where outputs exceed 1 (standardised ones, with a `standard`).

    Raises:
        ConfigError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("checking needs onnxruntime: pip install 'elmnet[interop]'") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sequence = session.get_modelmeta().custom_metadata_map["elmnet.graph"] == "sequence"
    step, (x, expected) = Step(network), trial(network, 2, steps, seed, standard)
    states = [tensor.numpy() for tensor in step.example()[1:]]
    pieces = []
    for piece in [x] if sequence else x.unbind(1):
        out, *states = session.run(step.outputs, dict(zip(step.inputs, [piece.numpy(), *states], strict=True)))
        pieces.append(torch.from_numpy(out))
    got = pieces[0] if sequence else torch.stack(pieces, 1)
    return difference(got, expected, standard)


@torch.no_grad()
def trial(network: ELMNetwork, batch: int, steps: int, seed: int, standard: Standard | None) -> tuple[Tensor, Tensor]:
    """Random input in the data's units, (batch, steps, ...), and what the network itself says of it in float32."""
    config, draw = network.config, torch.Generator().manual_seed(seed)
    network = copy.deepcopy(network).float().eval()  # what was exported drops nothing out
    if config.token_scale is not None:
        x = torch.randint(config.inputs, (batch, steps), generator=draw)
    else:
        x = torch.rand(batch, steps, config.inputs, generator=draw)
    if standard is None:
        return x, network(x)[0]
    x = x * standard.scale.to(x) + standard.mean.to(x)
    return x, network(standard.before(x))[0]


def difference(got: Tensor, expected: Tensor, standard: Standard | None) -> float:
    """The largest of a graph's outputs, in the data's units, from the network's own; relative where those exceed 1."""
    if standard is not None and len(standard.target_mean):
        got = (got - standard.target_mean.to(got)) / standard.target_scale.to(got)
    return float(((got - expected).abs() / expected.abs().clamp(min=1)).max())
