import numpy as np
import pytest

pytest.importorskip("numba", reason="needs Numba (extra `audio`)")
from elmnet.data import cochlea


def tone(frequency, seconds=0.2):
    t = np.arange(round(seconds * cochlea.SOUND_RATE)) / cochlea.SOUND_RATE
    return np.sin(2 * np.pi * frequency * t)


def test_high_tones_excite_the_first_channels_and_low_tones_the_last():
    centres = [np.bincount(cochlea.encode(tone(f), [0])[1], minlength=700).argmax() for f in (6000, 2000, 500)]
    assert centres == sorted(centres)
    frequency = np.geomspace(20, 20_000, 4000)
    place = np.linspace(0, 3.5, 700)[centres]
    best = frequency[np.abs(cochlea.transfer(frequency, place)).argmax(1)]
    assert np.allclose(best, [6000, 2000, 500], rtol=0.35)


def test_spikes_are_sorted_whole_and_decided_by_the_seed():
    sound = np.random.default_rng(0).normal(size=9601)
    times, units = cochlea.encode(sound, [1])
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 9601 / cochlea.SOUND_RATE + 1e-3
    assert units.max() < 700
    again, other = cochlea.encode(3 * sound, [1]), cochlea.encode(sound, [2])  # level does not matter
    assert abs(len(again[0]) - len(times)) < 0.02 * len(times)
    assert not np.array_equal(times[:100], other[0][:100])
    same = cochlea.encode(sound, [1])
    assert np.array_equal(times, same[0])
    assert np.array_equal(units, same[1])
    intervals = [np.diff(times[units == unit]) for unit in range(0, 700, 50)]
    assert min(gap.min() for gap in intervals if len(gap)) >= 1e-3 - 1e-9  # refractory


@pytest.mark.parametrize("size", [960, 961, 962, 963])
def test_the_membrane_is_the_half_spectrum_times_the_transfer_function(size):
    sound = np.random.default_rng(size).normal(size=size)
    spectrum = np.fft.fft(sound)[: size // 2 + 1]
    frequency = np.linspace(1, cochlea.RATE, len(spectrum))
    places = np.linspace(0, 3.5, 700)[[3, 200, 650]]
    wanted = np.fft.ifft(spectrum * cochlea.transfer(frequency, places)).real
    for row, channel in enumerate((3, 200, 650)):
        got = cochlea._membrane(spectrum, range(channel, channel + 1))[0]
        assert np.abs(got - wanted[row]).max() < 2e-3 * np.abs(wanted[row]).max()


def test_the_phase_integral_is_that_of_the_wave_number():
    frequency, place = np.array([300.0, 1000.0]), 0.8
    omega = 2 * np.pi * frequency
    x = np.linspace(0, place, 20_001)[:, None]
    resistance = 0.15 * np.sqrt(1e9 * 0.05) * np.exp(-1.5 * x)
    impedance = 1e9 * np.exp(-3 * x) - 3500 - 0.05 * omega**2 - 1j * omega * resistance
    g = omega * np.sqrt(1 / (0.1 * impedance))
    phase = 2 * g[0] / 3 + np.trapezoid(g, x, axis=0)
    from scipy.special import hankel1

    def pressure(phase, g):
        return np.sqrt(phase / g) * hankel1(0, phase)

    wanted = pressure(phase, g[-1]) / pressure(2 * g[0] / 3, g[0])
    got = cochlea.transfer(frequency, np.array([0.0, place]))
    assert np.allclose(got[1] / got[0], wanted * impedance[0] / impedance[-1], rtol=1e-5)


def test_the_binomial_draw_has_the_binomial_distribution():
    from scipy.stats import binom

    for n, p in ((40, 0.01), (40, 0.4), (3, 0.9)):
        for u in (0.0, 0.1, 0.5, 0.9, 0.999):
            assert cochlea._binomial(n, p, u) == binom.ppf(np.nextafter(u, 1), n, p)
    assert cochlea._binomial(7, 1.0, 0.3) == 7
    assert cochlea._binomial(0, 0.5, 0.3) == 0
