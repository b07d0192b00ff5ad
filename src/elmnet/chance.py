"""The streams of random numbers a run draws from, each a function of seed and place, so there is no state to save."""

from enum import IntEnum


class Draw(IntEnum):
    """What is drawn: the first of the numbers that seed a generator, `numpy.random.default_rng([draw, seed, place])`.

    Another number means other batches, also of runs that are resumed. Draws that no run makes both of may share one.
    """

    PAIRS = 1
    """Recordings of a training batch of `shd-adding`."""
    EVALUATED_PAIRS = 2
    """Those of its evaluations, the same for every seed."""
    RECORDINGS = 4
    """Order of an epoch of `shd`."""
    JITTER = 5
    """Of recordings, in time and channels."""
    RESETS = 5
    """Before which steps a state that is carried from batch to batch begins anew; those of recordings never are."""
    SEQUENCES = 6
    """Order of an epoch of `sequence`."""
    FILES = 6
    """The simulation file of a few training batches of `neuronio`."""
    WINDOWS = 7
    """Where in it they begin."""
