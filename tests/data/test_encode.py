import contextlib
import io
import os
import struct
import warnings
import wave
import zipfile

import h5py
import numpy as np
import pytest
from conftest import wav

pytest.importorskip("numba", reason="needs Numba (extra `audio`)")
from elmnet.data import encode, sound
from elmnet.data.encode import encode_recordings
from elmnet.data.sound import Recordings, parse_wav, resample
from elmnet.data.spikes import load_spike_corpus, load_spikes
from elmnet.errors import ConfigError, DataError


def noise(seconds=0.05, seed=0, rate=8000):
    return (np.random.default_rng(seed).normal(0, 3000, round(seconds * rate))).astype(np.int16)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "digits.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i, name in enumerate(("3_ann_0", "3_bob_0", "7_ann_0", "7_ann_1")):
            file.writestr(f"sub/{name}.wav", wav(noise(seed=i)))
        file.writestr("sub/readme.txt", "no sound")
    return path


def contents(path):
    with h5py.File(path) as file:
        names = [name.decode() for name in file["extra/recording"][:]]
        return {
            n: (t.tolist(), u.tolist())
            for n, t, u in zip(names, file["spikes/times"], file["spikes/units"], strict=True)
        }


def test_the_file_is_what_the_spike_tasks_read(archive, tmp_path):
    out = tmp_path / "spikes.h5"
    done = encode_recordings(Recordings(archive), out)
    data = load_spikes(out)
    assert data.labels.tolist() == [3, 3, 7, 7]
    assert data.speakers.tolist() == [0, 1, 0, 0]
    assert data.classes == 10
    assert done.recordings == 4
    assert done.spikes == len(data.times) > 100
    assert done.seconds == pytest.approx(0.2)
    assert not list(tmp_path.glob(".*"))


def test_train_and_test_are_numbered_alike(tmp_path):
    words = {"train": ("cat_ann", "dog_bob", "eel_ann"), "test": ("cat_ann", "eel_zoe", "eel_ann")}
    place = tmp_path / "spikes"
    for part, names in words.items():
        (tmp_path / part).mkdir()
        for i, name in enumerate(names):
            (tmp_path / part / f"{name}_{i}.wav").write_bytes(wav(noise(seed=i)))
        encode_recordings(Recordings(tmp_path / part), place / f"{part}.h5")
    with pytest.raises(DataError, match=r"test\.h5: label 1 is 'eel', in train\.h5 it is 'dog'; number both alike"):
        load_spike_corpus(str(place))
    encode_recordings(Recordings(tmp_path / "test"), place / "test.h5", like=place / "train.h5")
    corpus = load_spike_corpus(str(place))
    assert corpus.test.labels.tolist() == [0, 2, 2]
    assert corpus.test.names == {"label": ["cat", "dog", "eel"], "speaker": ["ann", "bob", "zoe"]}
    assert corpus.test.speakers.tolist() == [0, 0, 2]
    with pytest.raises(DataError, match="label 'dog' is none of those given: cat, eel"):
        encode_recordings(Recordings(tmp_path / "test"), place / "short.h5")
        encode_recordings(Recordings(tmp_path / "train"), place / "other.h5", like=place / "short.h5")
    with pytest.raises(DataError, match="damaged or no HDF5 file"):
        encode_recordings(Recordings(tmp_path / "train"), place / "other.h5", like=tmp_path / "train" / "cat_ann_0.wav")


@pytest.mark.parametrize(("seconds", "exact"), [(0.1, np.float16), (2.5, np.float32)])
def test_times_of_long_recordings_are_exact(tmp_path, seconds, exact):
    (tmp_path / "3_ann_0.wav").write_bytes(wav(noise(seconds)))
    encode_recordings(Recordings(tmp_path / "3_ann_0.wav"), tmp_path / "spikes.h5")
    assert load_spikes(tmp_path / "spikes.h5").times.dtype == exact


def test_names_that_are_no_text(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i, name in enumerate((b"one_\xff.wav", b"t\xffwo_1.wav")):
        (folder / os.fsdecode(name)).write_bytes(wav(noise(seed=i)))
    assert encode_recordings(Recordings(folder), tmp_path / "spikes.h5").recordings == 2
    with h5py.File(tmp_path / "spikes.h5") as file:
        assert file["extra/keys"][:].tolist() == [b"one", b"t\\udcffwo"]
        assert file["extra/recording"][:].tolist() == [b"one_\\udcff", b"t\\udcffwo_1"]


def test_a_recording_is_not_replaced_by_its_spikes(archive):
    before = archive.read_bytes()
    with pytest.raises(ConfigError, match="is no HDF5 file"):
        encode_recordings(Recordings(archive), archive)
    assert archive.read_bytes() == before
    with pytest.raises(ConfigError, match=r"seed must lie in 0\.\."):
        encode_recordings(Recordings(archive), archive.with_suffix(".h5"), seed=2**80)


def test_spikes_depend_on_sound_and_seed_alone(archive, tmp_path):
    a, b, c = (tmp_path / f"{name}.h5" for name in "abc")
    encode_recordings(Recordings(archive), a, threads=3)
    folder = tmp_path / "folder"
    folder.mkdir()
    with zipfile.ZipFile(archive) as file:
        (folder / "7_ann_0.wav").write_bytes(file.read("sub/7_ann_0.wav"))
    encode_recordings(Recordings(folder / "7_ann_0.wav"), b)
    encode_recordings(Recordings(folder), c, seed=1)
    assert contents(a)["7_ann_0"] == contents(b)["7_ann_0"] != contents(c)["7_ann_0"]


def test_several_patterns_choose_what_any_of_them_matches(tmp_path):
    for name in ("a_0", "b_0", "c_1"):
        (tmp_path / f"{name}.wav").write_bytes(GOOD)
    assert Recordings(tmp_path, ["a*", "*_1.wav"]).names == ["a_0.wav", "c_1.wav"]


def test_labels_can_be_words_or_folders_and_recordings_be_chosen(tmp_path):
    for i, name in enumerate(("yes/a_1", "yes/b_2", "no/a_3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.wav").write_bytes(wav(noise(seed=i)))
    out = tmp_path / "out.h5"
    encode_recordings(Recordings(tmp_path), out, label_from="folder")
    assert load_spikes(out).labels.tolist() == [0, 1, 1]  # no, yes, yes
    assert encode_recordings(Recordings(tmp_path), out).labels == ("a", "b")
    assert Recordings(tmp_path, ["a_*"]).names == ["no/a_3.wav", "yes/a_1.wav"]
    with pytest.raises(DataError, match=r"no \.wav recordings that match x"):
        Recordings(tmp_path, ["x"])


def test_every_pcm_and_float_format_gives_the_same_sound():
    plain = np.array([0, 100, -100, 120, -128, 127] * 40) / 128
    packed = {
        "u1": (1, 8, (plain * 128 + 128).astype(np.uint8).tobytes()),
        "i2": (1, 16, (plain * 2**15).astype("<i2").tobytes()),
        "i3": (1, 24, b"".join(struct.pack("<i", int(v * 2**23))[:3] for v in plain)),
        "i4": (1, 32, (plain * 2**31).astype("<i4").tobytes()),
        "f4": (3, 32, plain.astype("<f4").tobytes()),
        "f8": (3, 64, plain.astype("<f8").tobytes()),
    }
    for code, bits, data in packed.values():
        rate, got = parse_wav(wav(data, code=code, bits=bits), "x")
        assert rate == 8000
        assert np.allclose(got, plain, atol=1e-6)
    stereo = np.stack([noise(), np.zeros_like(noise())], 1)
    assert np.allclose(parse_wav(wav(stereo.tobytes(), channels=2), "x")[1], noise() / 2**16)


def test_the_standard_library_writes_what_we_read():
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(noise(rate=16_000).tobytes())
    rate, got = parse_wav(buffer.getvalue(), "x")
    assert rate == 16_000
    assert np.array_equal(got * 2**15, noise(rate=16_000))


def test_resampling_keeps_a_tone():
    t = np.arange(800) / 8000
    got = resample(np.sin(2 * np.pi * 500 * t), 8000, 48_000)
    assert np.allclose(got[500:-500], np.sin(2 * np.pi * 500 * np.arange(4800) / 48_000)[500:-500], atol=5e-3)


def lie(data, place, value):
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


GOOD = wav(noise())
BAD = [
    (lie(GOOD, 40, 2**32 - 1), r"declares 4,294,967,295 bytes of b'data' where 800 follow"),
    (lie(GOOD, 16, 2**31), "declares 2,147,483,648 bytes of b'fmt '"),
    (GOOD[:-10], "declares 800 bytes of b'data' where 790 follow"),
    (b"ID3" + GOOD, "not a WAV file"),
    (b"", "not a WAV file"),
    (GOOD[:36], "has no b'data' chunk"),
    (lie(GOOD, 24, 3), "3 samples a second, outside"),
    (lie(GOOD, 24, 2**32 - 1), "samples a second, outside"),
    (wav(noise(), code=2), "format 2 with 16 bits"),
    (wav(noise(), bits=12), "format 1 with 12 bits"),
    (lie(GOOD, 16, 8)[:28] + GOOD[36:], r"its b'fmt ' chunk has 8 bytes, at least 16"),
    (wav(noise().tobytes(), channels=0), "0 channels"),
    (wav(np.zeros(800, np.int16)), "silence"),
    (wav(noise()[:100]), "lasts 12.5 ms, less than 20"),
    (wav(np.array([0.1, np.nan] * 400, "<f4").tobytes(), code=3, bits=32), "sample 1 is not finite"),
    (wav(np.array([0.1, 0.2, np.inf] * 400, "<f4").tobytes(), code=3, bits=32), "sample 2 is not finite"),
]


@pytest.mark.parametrize(("data", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_sound_is_refused_in_words(data, words):
    with pytest.raises(DataError, match=words):
        parse_wav(data, "x")


def test_long_sounds_and_many_labels_are_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "MAX_SECONDS", 0.04)
    with pytest.raises(DataError, match="lasts 0 s, more than 0; cut it into pieces"):
        parse_wav(GOOD, "x")
    monkeypatch.undo()
    monkeypatch.setattr(encode, "MAX_LABELS", 2)
    for name in "abc":
        (tmp_path / f"{name}_0.wav").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"3 labels .* exceed 2; a label is what stands before the first _"):
        encode_recordings(Recordings(tmp_path), tmp_path / "out.h5")
    monkeypatch.setattr(sound, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="exceed 100; cut it into pieces"):
        encode_recordings(Recordings(tmp_path, ["a*"]), tmp_path / "out.h5")


def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(0)
    parsed = 0
    for _ in range(500):
        data = bytearray(GOOD)
        for place in rng.integers(0, 60, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        with contextlib.suppress(DataError):
            rate, samples = parse_wav(bytes(data), "x")
            assert np.isfinite(samples).all()
            assert rate > 0
            parsed += 1
    assert 0 < parsed < 500


def test_archives_that_are_not_to_be_trusted(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"

    def refused(words, **members):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name, data)
        with pytest.raises(DataError, match=words):
            encode_recordings(Recordings(path), tmp_path / "out.h5")

    refused("points outside", **{"../../evil.wav": GOOD})
    refused("points outside", **{"..\\evil.wav": GOOD})
    refused("points outside", **{"/etc/evil.txt": b"x", "a.wav": GOOD})
    refused("declares 8,000,000 bytes", **{"bomb.wav": bytes(8_000_000)})
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own
        file.writestr("a.wav", GOOD)
        file.writestr("a.wav", GOOD)
    with pytest.raises(DataError, match="two members have the same name"):
        Recordings(path)
    monkeypatch.setattr(sound, "MAX_TOTAL_BYTES", 1000)
    refused("exceed 1,000 bytes unpacked", **{"a.wav": GOOD, "b.wav": GOOD})
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip"}


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.wav", GOOD * 3)
    data = path.read_bytes()
    size = struct.pack("<I", len(GOOD) * 3)
    path.write_bytes(data.replace(size, struct.pack("<I", len(GOOD))))
    with pytest.raises(DataError, match=r"a.zip: a.wav: cannot be unpacked"):
        encode_recordings(Recordings(path), tmp_path / "out.h5")


def test_one_bad_recording_stops_everything_or_is_left_out(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("sub/1_ann_9.wav", wav(np.zeros(800, np.int16)))
    out = tmp_path / "out.h5"
    with pytest.raises(DataError, match=r"sub/1_ann_9.wav: silence"):
        encode_recordings(Recordings(archive), out)
    assert not out.exists()
    done = encode_recordings(Recordings(archive), out, skip_bad=True)
    assert done.recordings == 4
    assert "silence" in done.refused[0]


def test_the_spikes_are_those_of_the_public_encoder(shared, tmp_path):
    """Six recordings against the public encoder's; all of them in docs/results/audio.md."""
    out = tmp_path / "out.h5"
    encode_recordings(Recordings(shared / "data" / "fsdd_recordings.zip", ["[0-2]_[gj]*_0.wav"]), out)
    got = contents(out)
    with h5py.File(shared / "data" / "fsdd_spikes_test.h5") as file:
        names = [name.decode() for name in file["extra/recording"][:]]
        wanted = {name: len(file["spikes/times"][names.index(name)]) for name in got}
        profile = sum(np.bincount(file["spikes/units"][names.index(n)] // 70, minlength=10) for n in got)
    assert len(got) == 6
    for name, count in wanted.items():
        assert abs(len(got[name][0]) / count - 1) < 0.08  # two seeds of one encoder differ by up to 5 %
    ours = sum(np.bincount(np.array(units) // 70, minlength=10) for _, units in got.values())
    assert np.allclose(ours[4:], profile[4:], rtol=0.08)
