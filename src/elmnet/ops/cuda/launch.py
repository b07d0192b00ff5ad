"""The recurrence and its gradient as calls of kernels: buffers, grids, and the products around the loop."""

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from elmnet.ops import reference
from elmnet.ops.cuda import kernels
from elmnet.ops.cuda.kept import kept
from elmnet.ops.cuda.kernels import Shape
from elmnet.ops.cuda.operator import TAPE, segments, tape_rows
from elmnet.ops.cuda.plan import Limits, Plan, Sizes, plan, power
from elmnet.ops.cuda.wires import Wires, wires_of
from elmnet.ops.operands import ACTIVATIONS, DIFFERENTIABLE, MLP_ACTIVATIONS, STATE, Inputs, Numbers

Launch = Callable[[Any, tuple[int, ...], Mapping[str, Any], Mapping[str, Any]], None]
"""Starts a kernel: (kernel, grid, arguments, options)."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs kernels on the CPU, one program after another: for tests."""


def start(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Run a kernel on the current stream."""
    kernel[grid](**arguments, **({} if INTERPRETED else options))


empty = torch.empty
"""Tests put NaN into it, to find reads of what nobody wrote."""


def sizes_of(i: Inputs, wires: Wires) -> Sizes:
    """What the planner wants to know."""
    branches, hidden, memory, _, outputs, _ = tape_rows(i)
    recurrent, of_weights = wires.lateral.longest > 0, i.weight2.element_size()
    return Sizes(len(i.x), len(i.synapse), branches, memory, hidden, outputs, recurrent, of_weights)


def shape_of(chosen: Plan, sizes: Sizes, n: Numbers, steps: int) -> Shape:
    """What the kernels are compiled for."""
    readers = min(max(512 * chosen.warps // (chosen.block * chosen.lanes), 16), 128)  # 16 numbers a thread
    return Shape(
        *(sizes.branches, sizes.memory, sizes.hidden, sizes.outputs, *sizes.rows),
        block=chosen.block,
        lanes=chosen.lanes,
        readers=readers,
        ahead=4 if chosen.lanes <= 8 else 2,
        early=chosen.lanes <= 8,
        mlp_activation=MLP_ACTIVATIONS.index(n.mlp_activation),
        activation=ACTIVATIONS.index(n.activation),
        filtered=n.branch_decay is not None,
        highpassed=n.highpass_decay is not None,
        kept=chosen.kept,
        barrier=chosen.barrier,
        wide=sizes.batch * steps * sizes.units * max(sizes.rows) >= 2**31,
    )


class Layer:
    """One call's layer: its tensors made dense, its plan.

    Args:
        limits: of the GPU it runs on.
        launch: starts kernels.
        chosen: a plan instead of the one tuned for these sizes, or the planner's.
    """

    def __init__(self, i: Inputs, n: Numbers, limits: Limits, launch: Launch = start, chosen: Plan | None = None):
        self.i = i = Inputs(*(None if tensor is None else tensor.contiguous() for tensor in i))  # type: ignore[arg-type]
        self.n, self.launch = n, launch
        self.batch, self.steps, self.inputs = i.x.shape
        self.units, self.branches, self.synapses = i.synapse.shape
        self.outputs = i.readout.shape[1]
        self.channels = self.inputs + self.units * self.outputs
        self.wires = wires_of(i.connectome, self.inputs, self.channels, tuple(i.synapse.shape))  # type: ignore[arg-type]
        self.sizes = sizes_of(i, self.wires)
        self.plan = chosen or kept(self.sizes, limits) or plan(self.sizes, limits)
        self.shape = shape_of(self.plan, self.sizes, n, self.steps)
        self.x = i.x if i.mask_input is None else i.x * i.mask_input.unsqueeze(1)
        whole = torch.full((self.batch,), self.steps, dtype=torch.int32, device=i.x.device)
        self.lengths = whole if i.lengths is None else i.lengths.int()

    def new(self, *shape: int) -> Tensor:
        """An uninitialised tensor."""
        return empty(shape, dtype=torch.float32, device=self.i.x.device)

    def last_activity(self, out: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
        """out (B, T, N·n_y) at each sequence's last step; `before` where it has none left."""
        last = lengths.long().clamp(1, out.shape[1]) - 1
        found = out.gather(1, last.view(-1, 1, 1).expand(-1, 1, out.shape[2])).squeeze(1)
        return torch.where(lengths.unsqueeze(1) > 0, found, before)

    @cached_property
    def by_source(self) -> Tensor:
        """Weights of the synapses in the order of `Wires.readers`."""
        return self.i.synapse.flatten()[self.wires.readers]

    def _loop(self, kernel: Any, steps: int, arguments: Mapping[str, Any]) -> None:
        """Start a kernel of the recurrence as the plan says."""
        p, i, n, device = self.plan, self.i, self.n, self.i.x.device
        counter = torch.zeros(p.tiles, dtype=torch.int32, device=device) if p.barrier else None
        common = {
            **arguments,
            **{"readout_weight": i.readout, "decay": i.decay, "gain": i.gain, "weight1": i.weight1},
            **{"weight2": i.weight2, "mask_recurrent": i.mask_recurrent, "mask_memory": i.mask_memory},
            **{"counter": counter, "batch": self.batch, "steps": steps, "units": self.units},
            **{"blocks": p.blocks, "programs": p.programs, "input_scale": n.input_scale, "S": self.shape},
            **{"branch_decay": n.branch_decay or 0.0, "highpass_decay": n.highpass_decay or 0.0},
            "highpass_rest": 1 - (n.highpass_decay or 0.0),
        }
        # one stage: loads must not move across the waits, of which a pipeliner knows nothing
        options = {"num_warps": p.warps, "num_stages": 1, "launch_cooperative_grid": p.barrier, "maxnreg": 255}
        pieces = range(steps) if p.regime == "stepwise" else [0]
        for begin in pieces:
            end = begin + 1 if p.regime == "stepwise" else steps
            self.launch(kernel, (p.programs, p.tiles), {**common, "begin": begin, "end": end}, options)

    def forward(self) -> list[Tensor]:
        """As the operator returns it: out, the state's four tensors, the tape."""
        i, n = self.i, self.n
        cut = segments(i, n)
        keep = len(cut) == 1 and (n.keep or bool(n.see))
        *state, activity = (tensor.clone() for tensor in i.state)
        pieces, starts = [], []
        tape: list[Tensor] = []
        for begin, end in cut:
            if begin and n.keep:
                starts.append(torch.cat([tensor.flatten() for tensor in (*state, activity)]))
            x, lengths = self.x[:, begin:end].contiguous(), self.lengths - begin
            out, tape = self._forward(x, lengths, state, activity, keep)
            activity = self.last_activity(out, activity, lengths)
            pieces.append(out)
        if starts:
            tape[0] = torch.stack(starts)
        return [pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1), *state, activity, *tape]

    def _forward(
        self, x: Tensor, lengths: Tensor, state: Sequence[Tensor], activity: Tensor, keep: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """A piece of time: the state is overwritten; returns out and the tape."""
        i, n, s, w = self.i, self.n, self.shape, self.wires
        shape = (self.batch, x.shape[1], self.units)
        rows = {"branch": s.branches, "hidden": s.hidden, "mlp": s.memory, "memory": s.memory}
        rows |= {"readout": s.outputs, "drive": s.outputs}
        tape = {name: self.new(*shape, rows[name]) if keep or name == "branch" else None for name in TAPE}
        branch = tape["branch"]
        assert branch is not None
        lines, count = shape[0] * shape[1], self.units * self.branches
        table = _chunks(x.flatten(0, 1))
        feed = {
            **{"table": table, "sources": w.fed.sources, "synapse": w.fed.weights(i.synapse)},
            **{"mask_synapse": w.fed.masks(i.mask_synapse), "branch": branch, "lines": lines, "steps": shape[1]},
            **{"inputs": self.inputs, "count": count, "per_branch": w.fed.longest, "input_scale": n.input_scale},
            "BRANCHES": 256,
        }
        self.launch(kernels.feed, (len(table), -(-count // 256)), feed, {"num_warps": 8})
        out = self.new(shape[0], shape[1], self.units * self.outputs)
        heard, synapse, mask_synapse = None, None, None
        if w.lateral.longest:
            tiles, lanes = self.plan.tiles, self.plan.lanes
            heard = self.new(2, tiles, self.units * self.outputs + 1, lanes)
            said = activity if i.mask_recurrent is None else activity * i.mask_recurrent
            said = pad(said, (0, 0, 0, tiles * lanes - self.batch)).view(tiles, lanes, -1)
            heard[0, :, :-1] = said.transpose(1, 2)
            heard[:, :, -1] = 0
            synapse, mask_synapse = w.lateral.weights(i.synapse), w.lateral.masks(i.mask_synapse)
        names = dict(zip(("state_memory", "state_branch", "state_highpass"), state, strict=True))
        arguments = {
            **{name: tensor if s.hidden or name != "hidden" else None for name, tensor in tape.items()},
            **{"out": out, "heard": heard, "sources": w.lateral.sources, "synapse": synapse},
            **{"mask_synapse": mask_synapse, "bias1": i.bias1, "bias2": i.bias2, "bias": i.bias},
            **{"lengths": lengths, "per_branch": w.lateral.longest},
            **names,
        }
        self._loop(kernels.forward, shape[1], arguments)
        return out, [self.new(0) if tensor is None or not keep else tensor for tensor in tape.values()]

    def backward(
        self, out: Tensor, tape: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[Tensor]:
        """Gradients of the tensors in `DIFFERENTIABLE`, empty where not wanted.

        Args:
            grads: of out, the state's four tensors, then branch, mlp, memory and readout over time; None: zero.
        """
        cut = segments(self.i, self.n)
        if len(cut) == 1:
            return self._backward(out, tape, grads, wanted)
        starts = [self.i.state, *(self._state(flat) for flat in tape[0])]
        g_out, carried, unseen = grads[0], list(grads[1 : 1 + len(STATE)]), [None] * (len(grads) - 1 - len(STATE))
        through = [want or name in STATE for name, want in zip(DIFFERENTIABLE, wanted, strict=True)]
        of_x: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        for (begin, end), start in zip(reversed(cut), reversed(starts), strict=True):
            piece = self._piece(begin, end, start)
            *state, activity = (tensor.clone() for tensor in start)
            said, kept = piece._forward(piece.x, piece.lengths, state, activity, True)
            given = [None if g_out is None else g_out[:, begin:end], *carried, *unseen]
            found = dict(zip(DIFFERENTIABLE, piece._backward(said, kept, given, through), strict=True))
            of_x.insert(0, found.pop("x"))
            of_start = {name: found.pop(name) for name in STATE}
            carried = list(of_start.values())
            sums = {name: sums[name] + grad if sums else grad for name, grad in found.items()}
        sums |= of_start
        if wanted[0]:
            sums["x"] = torch.cat(of_x, 1)
        return [sums[name] if want else self.new(0) for name, want in zip(DIFFERENTIABLE, wanted, strict=True)]

    def _state(self, flat: Tensor) -> list[Tensor]:
        """The state's four tensors out of one."""
        parts = torch.split(flat, [tensor.numel() for tensor in self.i.state])
        return [part.view(tensor.shape) for part, tensor in zip(parts, self.i.state, strict=True)]

    def _piece(self, begin: int, end: int, start: Sequence[Tensor]) -> "Layer":
        """The same layer on some of the steps."""
        piece = copy(self)
        piece.i = self.i._replace(x=self.i.x[:, begin:end], **dict(zip(STATE, start, strict=True)))
        piece.x, piece.lengths, piece.steps = self.x[:, begin:end].contiguous(), self.lengths - begin, end - begin
        return piece

    def _backward(
        self, out: Tensor, tape: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[Tensor]:
        i, s, w = self.i, self.shape, self.wires
        kept = dict(zip(TAPE, tape, strict=True))
        want = dict(zip(DIFFERENTIABLE, wanted, strict=True))
        names = ("out", "memory1", "branch1", "highpass1", "activity1", "branch", "mlp", "memory", "readout")
        given = {k: None if g is None else g.contiguous() for k, g in zip(names, grads, strict=True)}
        shape = (self.batch, self.steps, self.units)
        g_out = torch.zeros_like(out) if given["out"] is None else given["out"]
        g_activity, here = given["activity1"], (self.lengths > 0).unsqueeze(1)  # the others ended in an earlier piece
        if g_activity is not None:
            last = (self.lengths.long().clamp(1, self.steps) - 1).view(-1, 1, 1).expand(-1, 1, out.shape[2])
            g_out = g_out.scatter_add(1, last, (g_activity * here).unsqueeze(1))
        before = {"memory": i.memory0, "branch": i.branch0, "highpass": i.highpass0}
        ends = {k: given[f"{k}1"] for k in before}
        state = {k: torch.zeros_like(before[k]) if g is None else g.clone() for k, g in ends.items()}  # overwritten
        rows = {"branch": s.branches, "hidden": s.hidden, "mlp": s.memory, "readout": s.outputs, "drive": s.outputs}
        back = {name: self.new(*shape, count) for name, count in rows.items()}
        back |= {name: self.new(*shape, s.memory) for name in ("gain", "decay") if want[name]}
        told = None
        if w.lateral.longest:
            told = out.new_zeros(2, self.plan.tiles, self.units * self.branches + 1, self.plan.lanes)
        first = w.first[self.inputs :]
        arguments = {
            **{"hidden": kept["hidden"] if s.hidden else None, "mlp": kept["mlp"], "drive": kept["drive"]},
            **{"g_out": g_out, **{f"g_{k}": given[k] for k in ("branch", "mlp", "memory", "readout")}},
            **{f"b_{k}": back.get(k) for k in ("branch", "mlp", "readout", "drive", "gain", "decay")},
            **{"b_hidden": back["hidden"] if s.hidden else None, "told": told, "first": first, "rows": w.rows},
            **{f"state_{k}": v for k, v in state.items()},
            **{"weights": self.by_source, "readers": w.readers, "mask_synapse": i.mask_synapse},
            **{"lengths": self.lengths, "per_branch": self.synapses, "surrogate_gain": self.n.surrogate_gain},
        }
        self._loop(kernels.backward, self.steps, arguments)
        found = self._weight_gradients(out, kept, back, want)
        found |= {f"{k}0": v for k, v in state.items() if want[f"{k}0"]}
        if want["x"]:
            x = self._of_sources(back["branch"].flatten(0, 1), w.first, self.inputs, self.steps)
            x = x.view(i.x.shape)
            found["x"] = x if i.mask_input is None else x * i.mask_input.unsqueeze(1)
        if want["activity0"]:
            a = self._of_sources(back["branch"][:, 0].contiguous(), first, self.channels - self.inputs, 1)
            a = a if i.mask_recurrent is None else a * i.mask_recurrent
            found["activity0"] = a if g_activity is None else torch.where(here, a, g_activity)
        for name in ("weight1", "weight2"):
            if name in found:
                found[name] = found[name].to(getattr(i, name).dtype)
        return [found.get(name, self.new(0)) for name in DIFFERENTIABLE]

    def _weight_gradients(
        self, out: Tensor, kept: Mapping[str, Tensor], back: Mapping[str, Tensor], want: Mapping[str, bool]
    ) -> dict[str, Tensor]:
        """All sums over time and sequences, as products after the loop."""
        i, s = self.i, self.shape
        found: dict[str, Tensor] = {}
        before = torch.cat([i.memory0.unsqueeze(1), kept["memory"][:, :-1]], 1)
        first, bias1, map1 = ("hidden", "bias1", "weight1") if s.hidden else ("mlp", "bias2", "weight2")
        if want[map1]:
            of_branch = torch.einsum("btno,btni->noi", back[first], kept["branch"])
            of_memory = torch.einsum("btno,btni->noi", back[first], before) * i.decay.unsqueeze(1)
            found[map1] = torch.cat([of_branch, of_memory], 2)
        if s.hidden and want["weight2"]:
            active = _ACTIVATIONS[s.mlp_activation](kept["hidden"])
            found["weight2"] = torch.einsum("btno,btni->noi", back["mlp"], active)
        if want[bias1]:
            found[bias1] = back[first].sum((0, 1))
        if s.hidden and want["bias2"]:
            found["bias2"] = back["mlp"].sum((0, 1))
        if want["readout"]:
            found["readout"] = torch.einsum("btno,btni->noi", back["readout"], kept["memory"])
        if want["bias"]:
            found["bias"] = back["drive"].sum((0, 1))
        if want["gain"]:
            update = kept["mlp"] if i.mask_memory is None else kept["mlp"] * i.mask_memory.unsqueeze(1)
            found["gain"] = (back["gain"] * reference.compress(update)).sum((0, 1))
        if want["decay"]:
            found["decay"] = (back["decay"] * before).sum((0, 1))
        if want["synapse"]:
            found["synapse"] = self._of_synapses(out, back["branch"])
        return found

    def _of_synapses(self, out: Tensor, b_branch: Tensor) -> Tensor:
        i = self.i
        table, channels = self.x, self.inputs
        if self.wires.lateral.longest:
            said = torch.cat([i.activity0.unsqueeze(1), out[:, :-1]], 1)
            said = said if i.mask_recurrent is None else said * i.mask_recurrent.unsqueeze(1)
            table, channels = torch.cat([table, said], 2), self.channels
        table = _chunks(table.flatten(0, 1))
        count, side, branches = self.units * self.branches, min(power(self.synapses), 16), 32
        groups, sides = -(-count // branches), -(-self.synapses // side)
        shares = max(1, min(2048 // (groups * sides), len(table)))
        share = -(-len(table) // shares)
        partial = self.new(shares, i.synapse.numel())
        arguments = {
            **{"table": table, "b_branch": b_branch, "connectome": self.wires.connectome, "partial": partial},
            **{"mask_synapse": i.mask_synapse, "lines": self.batch * self.steps, "steps": self.steps},
            **{"channels": channels, "count": count, "share": share, "input_scale": self.n.input_scale},
            **{"SYNAPSES": self.synapses, "SIDE": side, "BRANCHES": branches},
        }
        self.launch(kernels.synapse_gradient, (groups, shares, sides), arguments, {"num_warps": 8})
        return partial.sum(0).view(i.synapse.shape)

    def _of_sources(self, b_branch: Tensor, first: Tensor, channels: int, steps: int) -> Tensor:
        """b_branch (lines, N, d_tree) → (lines, channels), what those who read a channel tell it."""
        i, w = self.i, self.wires
        table, out = _chunks(b_branch.flatten(1)), self.new(len(b_branch), channels)
        arguments = {
            **{"table": table, "first": first, "rows": w.rows, "weights": self.by_source},
            **{"readers": w.readers, "mask_synapse": i.mask_synapse, "out": out, "lines": len(out), "steps": steps},
            **{"channels": channels, "count": self.units * self.branches, "synapses": i.synapse.numel()},
            **{"input_scale": self.n.input_scale, "CHANNELS": 8, "READERS": 32},
        }
        self.launch(kernels.source_gradient, (len(table), -(-channels // 8)), arguments, {"num_warps": 8})
        return out


def _chunks(lines: Tensor) -> Tensor:
    """(n, c) → (⌈n / 16⌉, c + 1, 16), sixteen lines side by side, then zeros."""
    n, c = lines.shape
    chunks = -(-n // 16)
    table = lines.new_zeros(chunks, c + 1, 16)
    table[:, :-1] = pad(lines, (0, 0, 0, 16 * chunks - n)).view(chunks, 16, c).transpose(1, 2)
    return table


_ACTIVATIONS = [reference.MLP_ACTIVATIONS[name] for name in MLP_ACTIVATIONS]
