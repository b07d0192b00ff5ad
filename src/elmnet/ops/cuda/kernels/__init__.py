"""The Triton kernels. Every regime (`elmnet.ops.cuda.plan`) runs the same step forwards and backwards.

Nothing is compiled for a batch size, a length or a number of units.
"""

from elmnet.ops.cuda.kernels.around import feed, source_gradient, synapse_gradient
from elmnet.ops.cuda.kernels.backward import backward
from elmnet.ops.cuda.kernels.forward import forward
from elmnet.ops.cuda.kernels.tile import Shape

__all__ = ["Shape", "backward", "feed", "forward", "source_gradient", "synapse_gradient"]
