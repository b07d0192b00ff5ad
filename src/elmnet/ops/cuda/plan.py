"""How a layer's recurrence is laid on a GPU: which regime, which tiles, and why. Pure arithmetic, no GPU needed.

Only the activity, N · n_y numbers a sequence, crosses units each step; weights serve all sequences and all steps. So a
program keeps a block of units and its weights for the whole sequence, wherever programs can wait for each other.
"""

from dataclasses import dataclass
from typing import Literal

Regime = Literal["independent", "whole", "resident", "streamed", "stepwise"]

LANES = 16
"""Most sequences of a tile."""
FEW_BLOCKS = 2
"""Blocks of units that one program does one after another rather than wait for others. A rule of thumb: a wait is
about as long as a block's step. Not measured on a GPU."""
VALUES_A_WARP = 256
"""Of a tile's branches, between 4 and 8 warps; with these no kernel of the benchmark's cases spills."""
TILE_VALUES = 4096
"""Most branches of a tile: with 8 warps 16 numbers a thread. Twice as many spilled in every case compiled."""
HEADROOM = 1.4
"""A kernel's shared memory over that of its weights: operands of products, sums across threads
(`benchmarks/gpu_compile.py` prints what the compiler took)."""


@dataclass(frozen=True)
class Limits:
    """What a GPU has."""

    name: str
    multiprocessors: int
    shared_bytes: int
    """Shared memory one program can have."""
    waits: bool = True
    """Cooperative launches: all programs are resident or the launch fails, so they may wait for each other."""


H100 = Limits("H100", 132, 232_448)
A100 = Limits("A100", 108, 166_912)
GPUS = {90: H100, 80: A100}
"""By compute capability, for plans and compilation without a GPU."""


@dataclass(frozen=True)
class Sizes:
    """A layer, and how many sequences at once."""

    batch: int
    units: int
    branches: int
    memory: int
    hidden: int
    outputs: int
    recurrent: bool
    """Whether any synapse reads the layer's own activity."""
    number_bytes: int = 4
    """Of the MLPs' weights: 2 in bfloat16."""

    @property
    def rows(self) -> tuple[int, int, int, int]:
        """Branches, memory, hidden, outputs as the kernels pad them."""
        return padded(self.branches), padded(self.memory), padded(max(self.hidden, 1)), _output_rows(self.outputs)

    @property
    def weight_bytes(self) -> int:
        """One unit's padded matrices."""
        branches, memory, hidden, outputs = self.rows
        first = hidden if self.hidden else memory
        second = memory * hidden if self.hidden else 0
        return self.number_bytes * (first * (branches + memory) + second) + 4 * outputs * memory

    def shared_bytes(self, block: int) -> float:
        """An estimate for a program of `block` units."""
        return HEADROOM * block * self.weight_bytes


@dataclass(frozen=True)
class Plan:
    """A regime and its tiles."""

    regime: Regime
    block: int
    """Units of a tile, a power of two."""
    lanes: int
    """Sequences of a tile, a power of two."""
    blocks: int
    programs: int
    """Programs that share the units; each tile of sequences has as many."""
    tiles: int
    warps: int
    """Of a program."""
    why: str

    @property
    def kept(self) -> bool:
        """A program owns one block of units and keeps its weights on the chip."""
        return self.programs == self.blocks

    @property
    def barrier(self) -> bool:
        """Programs wait for each other after every step."""
        return self.regime in ("resident", "streamed")

    @property
    def launches(self) -> str:
        """How often a kernel starts, in words."""
        return "one launch a step" if self.regime == "stepwise" else "one launch"

    def in_words(self) -> str:
        """One line."""
        return (
            f"{self.regime}: {self.programs} × {self.tiles} programs of {self.block} units × {self.lanes} sequences, "
            f"{self.launches}; {self.why}"
        )


def plan(sizes: Sizes, limits: Limits) -> Plan:
    """Where the layer fits best; there is always a way (`refuses` has turned down neurons too large for any)."""
    lanes = min(power(sizes.batch), LANES)
    tiles = -(-sizes.batch // lanes)
    most = 1  # units of a block that fit
    largest = TILE_VALUES // (lanes * sizes.rows[0])
    while sizes.shared_bytes(2 * most) <= limits.shared_bytes and most < sizes.units and 2 * most <= largest:
        most *= 2

    def made(regime: Regime, block: int, why: str) -> Plan:
        warps = min(max(block * lanes * sizes.rows[0] // VALUES_A_WARP, 4), 8)
        return _made(sizes, limits, regime, block, lanes, warps, why)

    if not sizes.recurrent:
        return made("independent", min(most, 4), "no synapse reads the layer itself, so nobody waits for anybody")
    if -(-sizes.units // most) <= FEW_BLOCKS:
        return made("whole", most, "one program does all units of its sequences, so nobody waits")
    room = limits.multiprocessors // tiles  # programs of a tile of sequences, one to a multiprocessor
    if not limits.waits or room < 2:
        why = f"{tiles} tiles of sequences leave no room" if limits.waits else "no cooperative launches here"
        return made("stepwise", min(most, 4), f"programs cannot wait for each other: {why}")
    block = 1
    while block < most and -(-sizes.units // block) > room:
        block *= 2
    if -(-sizes.units // block) <= room:
        return made("resident", block, "every unit's weights stay on a multiprocessor, one wait a step")
    kib = sizes.weight_bytes * sizes.units / 1024
    return made(
        "streamed", block, f"{kib:,.0f} KiB of weights do not fit; they are read again each step, one wait a step"
    )


def _made(sizes: Sizes, limits: Limits, regime: Regime, block: int, lanes: int, warps: int, why: str) -> Plan:
    """What follows from a regime and its tiles."""
    blocks, tiles = -(-sizes.units // block), -(-sizes.batch // lanes)
    programs = {"whole": 1, "streamed": limits.multiprocessors // tiles}.get(regime, blocks)
    return Plan(regime, block, lanes, blocks, programs, tiles, warps, why)


def alternatives(sizes: Sizes, limits: Limits) -> list[Plan]:
    """The planner's choice, then plans that differ from it in one thing: a tile half or twice as large, half or twice
    the warps, another regime. All fit; which is fastest only a GPU can say (`elmnet.bench.cuda_tune`)."""
    first = plan(sizes, limits)
    tile = {"block": first.block, "lanes": first.lanes, "warps": first.warps}
    tries = [{**tile, name: value} for name in tile for value in (tile[name] // 2, 2 * tile[name])]
    regimes: tuple[Regime, ...] = ("whole", "resident", "stepwise") if sizes.recurrent else ("independent",)
    found = [laid(sizes, limits, first.regime, **changed) for changed in tries]
    same = ("resident", "streamed") if first.barrier else (first.regime,)
    found += [laid(sizes, limits, regime, **tile) for regime in regimes if regime not in same]
    return [first, *(other for other in found if other is not None)]


def laid(sizes: Sizes, limits: Limits, regime: Regime, block: int, lanes: int, warps: int) -> Plan | None:
    """That plan, if it fits. Of programs that wait, each keeps its weights where there is one for every block."""
    most = min(power(sizes.batch), LANES)
    if not (1 <= block < 2 * sizes.units and 1 <= lanes <= most and 2 <= warps <= 16):
        return None
    if sizes.shared_bytes(block) > limits.shared_bytes or block * lanes * sizes.rows[0] > TILE_VALUES:
        return None
    blocks, room = -(-sizes.units // block), limits.multiprocessors // -(-sizes.batch // lanes)
    if regime == "whole" and blocks > 2 * FEW_BLOCKS:
        return None
    if regime in ("resident", "streamed"):
        if min(blocks, room) < 2 or not limits.waits:
            return None
        regime = "resident" if blocks <= room else "streamed"
    return _made(sizes, limits, regime, block, lanes, warps, "by trial, not by arithmetic")


def refuses(branches: int, memory: int, hidden: int, outputs: int, limits: Limits) -> str | None:
    """Why no plan can hold even one such neuron; None: there is one."""
    needed = Sizes(1, 1, branches, memory, hidden, outputs, True).shared_bytes(1)
    if needed <= limits.shared_bytes:
        return None
    return (
        f"a neuron with d_tree {branches}, d_mlp {hidden}, d_m {memory} needs about {needed / 1024:,.0f} KiB of a "
        f"multiprocessor's shared memory, {limits.name} has {limits.shared_bytes / 1024:,.0f}"
    )


def padded(rows: int) -> int:
    """Rows of a matrix product's operand: a power of two, at least 16."""
    return max(16, power(rows))


def _output_rows(outputs: int) -> int:
    return 1 if outputs == 1 else padded(outputs)


def power(n: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(n - 1, 0).bit_length()
