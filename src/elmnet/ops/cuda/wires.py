"""A connectome, sorted once as the kernels read it: by branch on the way forward, by source on the way back."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.weak import WeakTensorKeyDictionary

from elmnet.ops.operands import refuse_sources


class Listed(NamedTuple):
    """Some of the synapses of every branch, at most R, in lists of equal length."""

    sources: Tensor  # (R, N, d_tree) int32, what they read; one past the last source: nothing
    picks: Tensor  # (R, N, d_tree) int32, which of the N·k_c synapses they are; N·k_c: none

    @property
    def longest(self) -> int:
        """R."""
        return len(self.sources)

    @classmethod
    def of(cls, sources: Tensor, chosen: Tensor, nothing: int) -> "Listed":
        """Those `chosen` among (N, d_tree, d_s)."""
        longest = int(chosen.sum(2).max())
        place = chosen.to(torch.int8).sort(dim=2, descending=True, stable=True).indices[:, :, :longest]
        real = chosen.gather(2, place)
        numbers = torch.arange(sources.numel(), device=sources.device).view(sources.shape)
        found = torch.where(real, sources.gather(2, place), nothing)
        picks = torch.where(real, numbers.gather(2, place), sources.numel())
        return cls(*(tensor.int().permute(2, 0, 1).contiguous() for tensor in (found, picks)))

    def weights(self, synapse: Tensor) -> Tensor:
        """(R, N, d_tree) of (N, d_tree, d_s), 0 where there is none."""
        return pad(synapse.flatten(), (0, 1))[self.picks]

    def masks(self, mask: Tensor | None) -> Tensor | None:
        """(B, R, N, d_tree) of (B, N, d_tree, d_s)."""
        return None if mask is None else pad(mask.flatten(1), (0, 1))[:, self.picks]


class Wires(NamedTuple):
    """A connectome, sorted as the kernels read it."""

    connectome: Tensor  # (N, k_c) int32
    fed: Listed  # input synapses; what they read is 0..n_in
    lateral: Listed  # recurrent synapses; what they read is 0..N·n_y
    first: Tensor  # (n_in + N·n_y + 1,) int32
    readers: Tensor  # int32, synapses sorted by source: those of channel c are readers[first[c]:first[c + 1]]
    rows: Tensor  # int32, the branches 0..N·d_tree they belong to

    @classmethod
    def of(cls, connectome: Tensor, inputs: int, channels: int, shape: tuple[int, int, int]) -> "Wires":
        """Sort a connectome of `shape` (N, d_tree, d_s) that names `channels` sources, inputs first.

        Raises:
            ShapeError: it names others.
        """
        refuse_sources(connectome, channels)
        sources = connectome.view(shape)
        fed = Listed.of(sources, (sources >= 0) & (sources < inputs), inputs)
        lateral = Listed.of(sources - inputs, sources >= inputs, channels - inputs)
        flat = connectome.flatten()
        order = flat.sort(stable=True).indices
        counts = torch.bincount(flat + 1, minlength=channels + 1)  # of unconnected synapses first
        readers = order[int(counts[0]) :].int()
        return cls(
            connectome.int().contiguous(),
            fed,
            lateral,
            torch.cat([counts.new_zeros(1), counts[1:].cumsum(0)]).int().contiguous(),
            readers,
            readers // shape[2],
        )


_WIRES: Any = WeakTensorKeyDictionary()


def wires_of(connectome: Tensor, inputs: int, channels: int, shape: tuple[int, int, int]) -> Wires:
    """Sorted once for every connectome: sorting asks the GPU how long lists are."""
    if connectome.is_inference():  # nobody counts its changes
        return Wires.of(connectome, inputs, channels, shape)
    key = (connectome._version, inputs, channels, shape)
    kept = _WIRES.get(connectome)
    if kept is None or kept[0] != key:
        kept = (key, Wires.of(connectome, inputs, channels, shape))
        _WIRES[connectome] = kept
    return kept[1]  # type: ignore[no-any-return]
