"""Sound to spikes of 700 cochlear channels: the model that made the Spiking Heidelberg Digits.

    sound → level → Hann window → basilar membrane → inner hair cells → nerve fibres → bushy cells → spikes

The model of Cramer, Stradmann, Schemmel, Zenke 2020 (doi 10.1109/TNNLS.2020.3044364), after Sieroka, Dosch, Rupp 2006
(basilar membrane) and Meddis 1986, 1988 (hair cells); constants and conventions are those of the authors' public
encoder, lauscher 1.0.1. Nothing here was fitted. Three things are computed in another way,
with the same result: the membrane's transfer function is tabulated once and interpolated; its response is folded into
a real Fourier transform; and the 40 fibres of a hair cell, alike but for chance, are drawn together as one binomial
number a step.
"""

import math
from functools import cache
from typing import Any

import numba
import numpy as np
import scipy.fft
import scipy.interpolate
import scipy.special
from numpy.typing import NDArray

SOUND_RATE = 48_000
"""Samples a second of the sound the model takes."""
RATE = SOUND_RATE // 2
"""Steps a second of everything after the membrane."""
CHANNELS = 700

_LEVEL = 0.3  # root mean square of the sound before the window

# basilar membrane, in cgs units; x is the place, 0 at the stapes (high frequencies)
_LENGTH = 3.5  # cm
_STIFFNESS = 1e9  # C0, stiffness C0·exp(-αx) - a
_STIFFNESS_OFFSET = 3500.0  # a
_ALPHA = 3.0  # 1/cm
_DENSITY = 1.0  # ρ of the fluid
_HEIGHT = 0.1  # h of the scala
_MASS = 0.05  # m of the membrane
_DAMPING = 0.15  # δ, resistance δ·√(C0·m)·exp(-αx/2)

# inner hair cell; rates per second
_REPLENISH = 5.05  # y
_PERMEABILITY = 2000.0  # g
_LOSS = 2500.0  # l
_REUPTAKE = 6580.0  # r
_REPROCESS = 66.3  # x
_RELEASE_A, _RELEASE_B = 5.0, 300.0
_FIRING = 50_000.0  # h
_POOL = 1.0  # M

# bushy cell
_FIBRES = 40
_TAU_MEMBRANE, _TAU_SYNAPSE = 1e-3, 5e-4  # s
_REFRACTORY = RATE // 1000  # steps, of fibres and cell: 1 ms
_WEIGHT = 13e3 / _FIBRES

_KNOTS_PER_OCTAVE = 48
_NEGLIGIBLE = 1e-6  # of a channel's largest response
_BLOCK = 1 << 21  # samples of all channels handled at once


def encode(sound: NDArray[np.floating[Any]], seed: list[int]) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
    """Spikes of one recording.

    Args:
        sound: (n,) at `SOUND_RATE`, finite and not silent; its level does not matter.
        seed: of the nerve fibres' chance, as for `numpy.random.default_rng`.

    Returns:
        Times in seconds, ascending, and channels 0 (highest frequency) to 699.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.fft.fft(_shaped(sound))[: len(sound) // 2 + 1]
    rows = max(1, min(CHANNELS, _BLOCK // len(spectrum)))
    steps, units = [], []
    for first in range(0, CHANNELS, rows):
        channels = range(first, min(first + rows, CHANNELS))
        velocity = _membrane(spectrum, channels)
        step, row = _fire(velocity, rng.random(velocity.shape, dtype=np.float32))
        steps.append(step)
        units.append(row + first)
    step, unit = np.concatenate(steps), np.concatenate(units)
    order = np.argsort(step, kind="stable")
    return step[order] / RATE, unit[order].astype(np.uint16)


def _shaped(sound: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The sound at a standard level, under a Hann window as long as it is."""
    shaped = np.array(sound, dtype=np.float64)
    shaped *= _LEVEL / math.sqrt(np.square(shaped).mean())
    half = len(shaped) // 2
    ramp = np.hanning(2 * half)[:half]
    shaped[:half] *= ramp
    shaped[-half:] *= ramp[::-1]
    return shaped


def transfer(frequency: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The membrane's velocity at some places for unit pressure at the stapes; the shallow-water model's closed form.

    With u = exp(αx/2) and A = a + mω², the impedance ξ has ξ(u)·u² = C0 - iωru - Au² =: Q(u), the wave number is
    g = ω√(ρ/hξ); the phase integral G(x) = 2g(0)/α + ∫₀ˣ g dx is elementary, the pressure √(G/g)·H₀⁽¹⁾(G).

    Args:
        frequency: (K,) Hz, positive.
        places: (P,) x, 0 to 3.5 cm.

    Returns:
        (P, K).
    """
    omega = 2 * math.pi * frequency
    total = _STIFFNESS_OFFSET + _MASS * omega**2
    resistance = _DAMPING * math.sqrt(_STIFFNESS * _MASS)

    def impedance(u: Any) -> Any:
        return _STIFFNESS / u**2 - total - 1j * omega * resistance / u

    def wave_number(u: Any) -> Any:
        return omega * np.sqrt(_DENSITY / (_HEIGHT * impedance(u)))

    def primitive(u: Any) -> Any:  # ∫ du/√Q(u) is i/√A times its logarithm
        return 1j * (2 * total * u + 1j * omega * resistance) / (2 * np.sqrt(total)) - u * np.sqrt(impedance(u))

    def pressure(phase: Any, u: Any) -> Any:
        return np.sqrt(phase / wave_number(u)) * scipy.special.hankel1(0, phase)

    u = np.exp(_ALPHA * places[:, None] / 2)
    at_stapes = 2 * wave_number(1.0) / _ALPHA
    path = np.log(primitive(1.0) / primitive(u))
    phase = at_stapes - 2j * omega / (_ALPHA * np.sqrt(_HEIGHT * total)) * path
    s = 2 * omega / _ALPHA * math.sqrt(2 / (_HEIGHT * _STIFFNESS))
    source = 1j * math.sqrt(2 * _STIFFNESS / _HEIGHT) * scipy.special.hankel2(0, s) / scipy.special.hankel2(1, s)
    response: NDArray[np.complex128] = 2 * omega / impedance(u) * source * pressure(phase, u) / pressure(at_stapes, 1.0)
    return response


@cache
def _table() -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    """Cubic pieces of `transfer` over log₂ f, (channels, pieces, 4), and the last of each that is not negligible."""
    knots = np.arange(_KNOTS_PER_OCTAVE * math.ceil(math.log2(RATE)) + 1)
    response = transfer(2.0 ** (knots / _KNOTS_PER_OCTAVE), np.linspace(0, _LENGTH, CHANNELS))
    pieces = np.moveaxis(scipy.interpolate.CubicSpline(knots, response, axis=1).c, (0, 2), (2, 0))
    size = np.abs(response)
    matters = size > _NEGLIGIBLE * size.max(1, keepdims=True)
    return np.ascontiguousarray(pieces), len(knots) - 1 - matters[:, ::-1].argmax(1)


def _membrane(spectrum: NDArray[np.complex128], channels: range) -> NDArray[np.float32]:
    """Velocity (channels, steps) at `RATE`: the real part of the inverse transform of the positive half spectrum.

    As in the public encoder its bins stand for frequencies from 1 Hz to `RATE`, and what lies above `RATE`/2 folds
    down into the band.
    """
    pieces, ends = _table()
    size = len(spectrum)
    place = np.log2(np.linspace(1, RATE, size)) * _KNOTS_PER_OCTAVE
    chosen = slice(channels.start, channels.stop)
    half = _filter(spectrum, place, pieces[chosen], ends[chosen])
    velocity: NDArray[np.float32] = scipy.fft.irfft(half, n=size, axis=1, overwrite_x=True)
    return velocity


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _filter(
    spectrum: NDArray[np.complex128],
    place: NDArray[np.float64],
    pieces: NDArray[np.complex128],
    ends: NDArray[np.int64],
) -> NDArray[np.complex64]:
    """Spectrum times transfer function, folded so that its inverse real transform is Re(ifft(product))."""
    size = len(spectrum)
    folded = np.zeros((len(pieces), size // 2 + 1), dtype=np.complex64)
    for row in range(len(pieces)):
        for k in range(size):
            piece = min(int(place[k]), pieces.shape[1] - 1)
            if piece > ends[row]:
                break
            t = place[k] - piece
            c = pieces[row, piece]
            value = 0.5 * spectrum[k] * (((c[0] * t + c[1]) * t + c[2]) * t + c[3])
            if k == 0:
                folded[row, 0] += 2 * value.real
            elif 2 * k < size:
                folded[row, k] += value
            elif 2 * k == size:
                folded[row, k] += 2 * value.real
            else:
                folded[row, size - k] += value.conjugate()
    return folded


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fire(velocity: NDArray[np.float32], uniform: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hair cell, fibres and bushy cell of every row of velocity (rows, steps): steps and rows of the spikes.

    uniform: numbers in [0, 1), of velocity's shape.
    """
    rows, steps = velocity.shape
    room = rows * (steps // _REFRACTORY + 1)
    when, where = np.empty(room, np.int64), np.empty(room, np.int64)
    count = 0
    dt = 1.0 / RATE
    keep_membrane, keep_synapse = math.exp(-dt / _TAU_MEMBRANE), math.exp(-dt / _TAU_SYNAPSE)
    rest = _PERMEABILITY * _RELEASE_A / (_RELEASE_A + _RELEASE_B)
    cleft_at_rest = _POOL * _REPLENISH * rest / (_LOSS * rest + _REPLENISH * (_LOSS + _REUPTAKE))
    recent = np.zeros(_REFRACTORY, np.int64)  # fibres that fired at each of the last steps
    for row in range(rows):
        cleft = cleft_at_rest
        free = cleft * (_LOSS + _REUPTAKE) / rest
        store = cleft * _REUPTAKE / _REPROCESS
        recent[:] = 0
        ready, slot = _FIBRES, 0
        potential, current, resting = 0.0, 0.0, 0
        for step in range(steps):
            moved = velocity[row, step] + _RELEASE_A
            release = _PERMEABILITY * dt * moved / (moved + _RELEASE_B) * free if moved > 0 else 0.0
            new = _REPLENISH * dt * (_POOL - free) if free < _POOL else 0.0
            back, again = _REUPTAKE * dt * cleft, _REPROCESS * dt * store
            free = max(free + new - release + again, 0.0)
            cleft = max(cleft + release - (_LOSS + _REUPTAKE) * dt * cleft, 0.0)
            store = max(store + back - again, 0.0)

            ready += recent[slot]  # those of one refractory time ago
            fired = _binomial(ready, _FIRING * dt * cleft, uniform[row, step])
            ready -= fired
            recent[slot] = fired
            slot = slot + 1 if slot + 1 < _REFRACTORY else 0

            current = current * keep_synapse + fired
            if resting > 0:
                resting -= 1
            elif potential >= 1.0:
                when[count], where[count] = step, row
                count += 1
                potential, resting = 0.0, _REFRACTORY - 1
            else:
                potential = potential * keep_membrane + current * (_WEIGHT * dt)
    return when[:count], where[:count]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _binomial(n: int, p: float, u: float) -> int:
    """The binomial number of n draws of probability p whose distribution function passes u."""
    if p >= 1.0 or n == 0:
        return n
    mass = (1.0 - p) ** n
    passed, k = mass, 0
    odds = p / (1.0 - p)
    while u >= passed and k < n:
        mass *= odds * (n - k) / (k + 1)
        k += 1
        passed += mass
    return k
