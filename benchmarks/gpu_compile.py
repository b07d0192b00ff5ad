"""Compile the cuda backend's kernels for GPUs that need not be here, and print what the assembler gives them.

    python benchmarks/gpu_compile.py [--case enwik8-paper] [--capability 90] [--bf16]

Registers, shared memory, spilled bytes and the machine instructions of every loop (the first is a step) for both layers
of the benchmark's cases; the exit code is 1 if any spill.
"""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from elmnet.bench.cases import CASES
from elmnet.bench.cuda_compile import compile_layer
from elmnet.ops.cuda.plan import GPUS


def main() -> int:
    """Print one table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable; default: all")
    parser.add_argument("--capability", action="append", type=int, choices=list(GPUS), help="repeatable; default: all")
    parser.add_argument("--bf16", action="store_true", help="as under torch.autocast to bfloat16")
    chosen = parser.parse_args()
    table = Table("case", "layer", "for", "regime", "kernel", "warps", "registers", "shared, bytes", "spilled, bytes",
                  "loops, instructions")  # fmt: skip
    spilled = 0
    for capability in chosen.capability or GPUS:
        for name in chosen.case or CASES:
            case = CASES[name]
            for place, layer in zip(("hidden", "read-out"), case.build("reference").layers, strict=True):
                plan, kernels = compile_layer(layer, case.batch, capability, bf16=chosen.bf16)
                print(f"{name}, {place}, {GPUS[capability].name}: {plan.in_words()}", file=sys.stderr, flush=True)
                for k in kernels:
                    numbers = (k.warps, k.registers, k.shared_bytes, k.spilled_bytes)
                    loops = ", ".join(map(str, k.loops))
                    table.add_row(name, place, f"sm_{capability}", plan.regime, k.kernel, *map(str, numbers), loops)
                    spilled += k.spilled_bytes
    Console(width=160).print(table)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
