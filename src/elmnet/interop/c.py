"""A network as one C header, for machines that have a compiler and nothing else.

C99 with `math.h`: constants and a function for one step, in float32, without allocation. The equations are those of
`elmnet.ops.reference`, neuron by neuron (`step.h.in`).
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from elmnet.errors import CheckpointError
from elmnet.files import write_atomic
from elmnet.interop.graphs import OF_A_NEURON, Step, difference, metadata, trial
from elmnet.network import ELMNetwork
from elmnet.ops import LayerState
from elmnet.ops.operands import ACTIVATIONS, MLP_ACTIVATIONS
from elmnet.tasks.standard import Standard

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-Wall", "-Werror", "-shared", "-fPIC")


def export_c(network: ELMNetwork, path: Path, *, standard: Standard | None = None) -> None:
    """Write a header with a state, zeros at the beginning, and `NAME_step`; NAME is the file's.

    Args:
        network: in any dtype; the header computes in float32.
        path: the file.
        standard: of the data it was trained on, folded into the step.
    """
    write_atomic(path, "".join(_text(network, name_of(path), standard)))


def name_of(path: Path) -> str:
    """What every name in the header begins with: the file's name, as C allows it."""
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    return name if re.match("[A-Za-z]", name) else f"elm_{name}"


def _text(network: ELMNetwork, name: str, standard: Standard | None) -> Iterator[str]:
    step, config = Step(network, standard), network.config
    about = metadata(network, sequence=False, standard=standard)
    x = "token, below the number of inputs; others are silence" if step.tokens else f"x[{config.inputs}]"
    about |= {"inputs": x, "outputs": f"out[{config.outputs}]"}
    yield "/* ELM Network (arXiv:2605.12049), one step; written by elmnet.\n"
    yield from (f" * {key}: {value.replace('*/', '* /')}\n" for key, value in about.items() if key != "graph")
    yield f" */\n#ifndef {name.upper()}_H\n#define {name.upper()}_H\n"
    yield "#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <string.h>\n\n"
    yield f"enum {{ {name}_inputs = {config.inputs}, {name}_outputs = {config.outputs} }};\n\n"
    sources = [step.get_buffer(f"layer{i}_sources") for i in range(len(step.layers))]
    source = "uint16_t" if max(int(one.max()) for one in sources) < 2**16 else "uint32_t"
    widest = max(max(dynamics.mlp_widths) for dynamics in step.layers)
    template = resources.files("elmnet.interop").joinpath("step.h.in").read_text(encoding="utf-8")
    for mark, value in (("NAME", name), ("SOURCE", source), ("WIDEST", str(widest))):
        template = template.replace(f"@{mark}@", value)
    yield template
    for i, layer in enumerate(network.elm_layers):
        yield from _layer(step, i, layer.inputs, layer.config.units, name, source)
    if step.affine is not None:
        yield _array(f"{name}_affine_weight", step.affine.weight)
        yield _array(f"{name}_affine_bias", step.affine.bias)
    if standard is not None:
        for key in ("mean", "scale", "target_mean", "target_scale"):
            if len(values := getattr(step.standard, key)):
                yield _array(f"{name}_{key}", values)
    yield from _step(step, network, name, standard)
    yield f"\n#endif /* {name.upper()}_H */\n"


def _layer(step: Step, i: int, inputs: int, units: int, name: str, source: str) -> Iterator[str]:
    """Constants of a layer."""
    dynamics, own = step.layers[i], f"{name}_{i}"
    yield _array(f"{own}_sources", step.get_buffer(f"layer{i}_sources"), source)
    for part in OF_A_NEURON:
        yield _array(f"{own}_{part}", step.get_buffer(f"layer{i}_{part}"))
    maps = range(dynamics.mlp_layers + 1)
    for k in maps:
        yield _array(f"{own}_weight{k}", step.get_buffer(f"layer{i}_mlp{k}_weight"))
        yield _array(f"{own}_bias{k}", step.get_buffer(f"layer{i}_mlp{k}_bias"))
    yield f"static const int {own}_widths[] = {{{', '.join(map(str, dynamics.mlp_widths))}}};\n"
    for kind in ("weight", "bias"):
        names = ", ".join(f"{own}_{kind}{k}" for k in maps)
        yield f"static const float *const {own}_{kind}_of[] = {{{names}}};\n"
    synapse, memory = step.get_buffer(f"layer{i}_synapse"), step.shapes[i].memory[1]
    sizes = (units, *synapse.shape[1:], memory, dynamics.outputs, inputs, len(maps))
    decays = (_number(-1.0 if decay is None else decay) for decay in (dynamics.branch_decay, dynamics.highpass_decay))
    fields = [
        *map(str, sizes),
        *(f"{own}_{part}" for part in ("widths", "sources", *OF_A_NEURON, "weight_of", "bias_of")),
        _number(dynamics.input_scale),
        *decays,
        str(MLP_ACTIVATIONS.index(dynamics.mlp_activation)),
        str(ACTIVATIONS.index(dynamics.activation)),
    ]
    yield f"static const {name}_layer {own} = {{{', '.join(fields)}}};\n\n"


def _step(step: Step, network: ELMNetwork, name: str, standard: Standard | None) -> Iterator[str]:
    """The state, and the function."""
    config, layers = network.config, network.elm_layers
    names = [[f"{field}{i}" for field in LayerState._fields] for i in range(len(layers))]
    sizes = [[torch.Size(shape).numel() for shape in shapes] for shapes in step.shapes]
    yield "/* All zeros at the beginning of a sequence. */\ntypedef struct {\n"
    for own, counts in zip(names, sizes, strict=True):
        yield from (f"    float {field}[{count}];\n" for field, count in zip(own, counts, strict=True) if count)
    yield f"}} {name}_state;\n\n"
    given = "uint32_t token" if step.tokens else f"const float x[{config.inputs}]"
    yield f"static inline void {name}_step({name}_state *state, {given}, float out[{config.outputs}])\n{{\n"
    tables = [layer.inputs + layer.config.outputs + 1 for layer in layers]
    yield f"    float table[{max(tables)}];\n"
    if step.tokens:
        yield "    memset(table, 0, sizeof table);\n"  # GCC warns of as many bytes as places
        yield f"    if (token < {config.inputs}) table[token] = {_number(float(config.token_scale or 1))};\n"
    elif standard is None:
        yield f"    memcpy(table, x, {config.inputs} * sizeof(float));\n"
    else:
        yield f"    for (int i = 0; i < {config.inputs}; ++i) table[i] = (x[i] - {name}_mean[i]) / {name}_scale[i];\n"
    for i, (own, counts) in enumerate(zip(names, sizes, strict=True)):
        if i:
            yield f"    memcpy(table, state->{names[i - 1][-1]}, sizeof state->{names[i - 1][-1]});\n"
        states = ", ".join(f"state->{field}" if count else "0" for field, count in zip(own, counts, strict=True))
        yield f"    {name}_run(&{name}_{i}, table, {states});\n"
    last, n_in = f"state->{names[-1][-1]}", sizes[-1][-1]
    yield f"    for (int o = 0; o < {config.outputs}; ++o) {{\n"
    if step.affine is None:
        yield f"        out[o] = {last}[o];\n"
    else:
        yield f"        float sum = {name}_affine_bias[o];\n"
        yield f"        for (int i = 0; i < {n_in}; ++i) sum += {name}_affine_weight[o * {n_in} + i] * {last}[i];\n"
        yield "        out[o] = sum;\n"
    if standard is not None and len(standard.target_mean):
        yield f"        out[o] = out[o] * {name}_target_scale[o] + {name}_target_mean[o];\n"
    yield "    }\n}\n"


def _number(value: float) -> str:
    """A float that C reads as the same one."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".en") else f"{text}.0f"


def _array(name: str, tensor: Tensor, kind: str = "float") -> str:
    """Constants, ten in a line."""
    values = tensor.flatten().tolist()
    texts: Sequence[str] = [_number(value) for value in values] if kind == "float" else list(map(str, values))
    lines = (",".join(texts[i : i + 10]) for i in range(0, len(texts), 10))
    return f"static const {kind} {name}[{len(texts)}] = {{\n" + ",\n".join(lines) + "\n};\n"


def check_c(
    network: ELMNetwork, path: Path, *, steps: int = 20, seed: int = 0, standard: Standard | None = None
) -> float | None:
    """Compile a header that was written and run it on random input: the largest difference from the network's own
    output in float32, relative where outputs exceed 1 (standardised ones, with a `standard`); None: no C compiler.

    Raises:
        CheckpointError: it does not compile.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None
    name, (x, expected) = name_of(path), trial(network, 1, steps, seed, standard)
    tokens = network.config.token_scale is not None
    given, passed = ("uint32_t token", "token") if tokens else ("const float *x", "x")
    with tempfile.TemporaryDirectory() as place:
        source, library = Path(place) / "step.c", Path(place) / "step.so"
        source.write_text(
            f'#include "{path.resolve()}"\nstatic {name}_state state;\n'
            f"void step({given}, float *out) {{ {name}_step(&state, {passed}, out); }}\n"
        )
        command = [compiler, *FLAGS, str(source), "-o", str(library), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckpointError(f"{path} does not compile here: {done.stderr.strip()[:500]}")
        run = ctypes.CDLL(str(library)).step
        run.argtypes = [ctypes.c_uint32 if tokens else ctypes.c_void_p, ctypes.c_void_p]
        got = torch.empty_like(expected)
        for one, out in zip(x[0], got[0], strict=True):
            run(int(one) if tokens else one.data_ptr(), out.data_ptr())
    return difference(got, expected, standard)
