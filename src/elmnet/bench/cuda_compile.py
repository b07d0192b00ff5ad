"""Compiling kernels without a GPU: for which GPU, with how many registers, how much shared memory, how many spills."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elmnet.bench.cuda_tune import both_ways, example
from elmnet.errors import BackendError
from elmnet.layer import ELMLayer
from elmnet.ops.cuda.launch import INTERPRETED, Layer
from elmnet.ops.cuda.plan import GPUS, Plan


@dataclass(frozen=True)
class Compiled:
    """A kernel as the assembler sees it."""

    kernel: str
    capability: int
    warps: int
    registers: int
    shared_bytes: int
    spilled_bytes: int
    loops: tuple[int, ...]
    """Machine instructions of each loop, those within it included, in the order of the code."""


@torch.no_grad()
def compile_layer(
    layer: ELMLayer, batch: int, capability: int, *, chosen: Plan | None = None, bf16: bool = False
) -> tuple[Plan, list[Compiled]]:
    """Compile all kernels that one training step of a layer starts.

    Args:
        layer: float32, on the CPU; nothing is run.
        batch: sequences, which decide the plan.
        capability: 80 or 90.
        chosen: a plan instead of the planner's for that GPU.
        bf16: as under `torch.autocast` to bfloat16.

    Raises:
        BackendError: Triton interprets, or its assembler fails.
    """
    if INTERPRETED:
        raise BackendError("kernels are interpreted here (TRITON_INTERPRET=1); nothing can be compiled")
    seen: dict[str, Compiled] = {}

    def launch(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        if kernel.__name__ not in seen:
            seen[kernel.__name__] = _compile(kernel, arguments, options, capability)

    run = Layer(*example(layer, batch, 2, bf16=bf16), GPUS[capability], launch, chosen)
    both_ways(run)
    return run.plan, list(seen.values())


def _compile(kernel: Any, arguments: Mapping[str, Any], options: Mapping[str, Any], capability: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, aligned = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if value is None or kernel.params[place].is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32"}[value.dtype]
            aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    warps = int(made.metadata.num_warps)
    return Compiled(kernel.__name__, capability, warps, *_assemble(made.asm["ptx"], capability, made.metadata.shared))


def _assemble(ptx: str, capability: int, shared: int) -> tuple[int, int, int, tuple[int, ...]]:
    """Registers, shared memory, spills and loops of generated PTX, from the assembler that comes with Triton."""
    from triton import knobs

    target = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        file, code = Path(folder) / "kernel.ptx", f"{folder}/kernel.cubin"
        file.write_text(ptx)
        said = _run([knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", str(file), "-o", code], target).stderr
        listing = _run([knobs.nvidia.nvdisasm.path, "-c", code], target).stdout
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    registers = re.findall(r"Used (\d+) registers", said)
    return max(map(int, registers)), shared, sum(map(int, spills)), _loops(listing)


def _run(command: list[str], target: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"{Path(command[0]).name} cannot do a kernel for {target}: {done.stderr.strip()}")
    return done


def _loops(listing: str) -> tuple[int, ...]:
    """Branches back to a label, of disassembled code; one to itself, which pads the end, is none."""
    places: dict[str, int] = {}
    ends: dict[str, int] = {}
    count = 0
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            places[label[1]] = count
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/ ", line):
            if (jump := re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) and places.get(jump[1], count) < count:
                ends[jump[1]] = count
            count += 1
    return tuple(end - places[label] + 1 for label, end in sorted(ends.items(), key=lambda item: places[item[0]]))
