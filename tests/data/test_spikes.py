import numpy as np
import pytest
from conftest import write_spikes

from elmnet.data import spikes, synthetic
from elmnet.errors import DataError


def test_reads_what_was_written(tmp_path):
    data = spikes.load_spikes(write_spikes(tmp_path / "a.h5", count=7, classes=20))
    assert len(data) == 7
    assert data.classes == 20
    assert data.offsets[-1] == len(data.times) == len(data.units)
    assert data.speakers is not None


def test_dense_counts_each_bin_once_and_drops_late_spikes(tmp_path):
    times = [np.array([0.0, 0.0019, 0.002, 0.5, 0.9995, 1.0], dtype=np.float64)]
    units = [np.array([3, 3, 3, 699, 5, 6], dtype=np.uint16)]
    path = write_spikes(
        tmp_path / "a.h5",
        count=1,
        **{"spikes/times": times, "spikes/units": units, "labels": np.array([1]), "extra/speaker": None},
    )
    grid = spikes.load_spikes(path).dense(np.array([0, 0]), 0.002, 500)
    assert grid.shape == (2, 500, 700)
    assert sorted(zip(*(place.tolist() for place in np.nonzero(grid[1])), strict=True)) == [
        (0, 3),
        (1, 3),
        (250, 699),
        (499, 5),
    ]


def test_moved_recordings_lose_what_leaves_the_grid(tmp_path):
    path = write_spikes(
        tmp_path / "a.h5",
        count=1,
        **{
            "spikes/times": [np.array([0.05, 0.55, 0.95])],
            "spikes/units": [np.array([0, 350, 699], dtype=np.uint16)],
            "labels": np.array([0]),
            "extra/speaker": None,
        },
    )
    data = spikes.load_spikes(path)
    where = lambda **moved: np.argwhere(data.dense(np.array([0]), 0.1, 10, **moved)[0]).tolist()  # noqa: E731
    assert where() == [[0, 0], [5, 350], [9, 699]]
    assert where(delays=np.array([0.1])) == [[1, 0], [6, 350]]
    assert where(delays=np.array([-0.1]), shifts=np.array([-1])) == [[4, 349], [8, 698]]
    assert where(shifts=np.array([2])) == [[0, 2], [5, 352]]


def test_times_are_as_exact_as_the_file_has_them(tmp_path):
    """In float32 half of these would come a bin too early."""
    times = [np.arange(1000) * 0.001]
    content = {"spikes/times": times, "spikes/units": [np.zeros(1000, np.uint16)], "labels": np.array([1])}
    path = write_spikes(tmp_path / "a.h5", count=1, **content, **{"extra/speaker": None})
    assert spikes.load_spikes(path).dense(np.array([0]), 0.001, 1000)[0, :, 0].all()


def test_absurdly_late_spikes_are_dropped(tmp_path):
    path = write_spikes(
        tmp_path / "a.h5",
        count=1,
        **{
            "spikes/times": [np.array([0.1, 1e20])],
            "spikes/units": [np.array([1, 2], dtype=np.uint16)],
            "labels": np.array([0]),
            "extra/speaker": None,
        },
    )
    assert spikes.load_spikes(path).dense(np.array([0]), 0.002, 500).sum() == 1


def test_float16_times_do_not_overflow(tmp_path):
    times = [np.array([0.25, 0.9], dtype=np.float16)]
    path = write_spikes(
        tmp_path / "a.h5",
        count=1,
        **{
            "spikes/times": times,
            "spikes/units": [np.array([0, 1], dtype=np.uint16)],
            "labels": np.array([0]),
            "extra/speaker": None,
        },
    )
    grid = spikes.load_spikes(path).dense(np.array([0]), 1e-6, 1_000_000)
    assert np.nonzero(grid[0])[0].tolist() == [250_000, int(float(np.float16(0.9)) * 1e6)]


def bad(values, index, value):
    values = [np.array(v) for v in values]
    values[index] = value
    return values


GOOD_TIMES = [np.array([0.1, 0.2], dtype=np.float64)] * 3
GOOD_UNITS = [np.array([1, 2], dtype=np.int64)] * 3
LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        ({"spikes/units": None}, "has no dataset 'spikes/units'"),
        ({"labels": None}, "has no dataset 'labels'"),
        ({"labels": LABELS[:2]}, "3 times, 3 units and 2 labels"),
        ({"labels": np.array([0, 25, 1])}, "sample 1 has label 25, outside 0..19"),
        ({"labels": np.array([0, 1, -1])}, "sample 2 has label -1"),
        ({"labels": np.array([0, 12, 1])}, "sample 1 has label 12, but the file names 10 classes"),
        ({"spikes/units": bad(GOOD_UNITS, 2, np.array([1, 700]))}, "sample 2 has unit 700, outside 0..699"),
        ({"spikes/units": bad(GOOD_UNITS, 1, np.array([-3, 7]))}, "sample 1 has unit -3"),
        ({"spikes/units": bad(GOOD_UNITS, 1, np.array([5]))}, "sample 1 has 2 times but 1 units"),
        ({"spikes/times": bad(GOOD_TIMES, 0, np.array([0.1, np.nan]))}, "sample 0 has a spike time that is negative"),
        ({"spikes/times": bad(GOOD_TIMES, 0, np.array([-0.1, 0.2]))}, "sample 0 has a spike time that is negative"),
        ({"labels": np.array([[0, 1, 2]] * 3)}, "labels must be one whole number a sample"),
        ({"labels": np.array([0.5, 1, 2])}, "labels must be one whole number a sample, got float64"),
        ({"labels": np.array([b"a", b"b", b"c"])}, "labels must be one whole number a sample"),
        ({"spikes/times": np.array([0.1, 0.2, 0.3])}, "sample 0: times must be a list of floats"),
        ({"extra/speaker": np.array([1])}, "1 entries in extra/speaker for 3 labels"),
    ],
)
def test_broken_layouts_name_file_and_sample(tmp_path, replace, words):
    content = {"spikes/times": GOOD_TIMES, "spikes/units": GOOD_UNITS, "labels": LABELS, "extra/speaker": None}
    path = write_spikes(tmp_path / "broken.h5", count=3, **{**content, **replace})
    with pytest.raises(DataError, match=rf"broken.h5: .*{words}"):
        spikes.load_spikes(path)


def test_truncated_file_is_refused(tmp_path):
    path = write_spikes(tmp_path / "cut.h5")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut.h5: damaged or truncated HDF5 file"):
        spikes.load_spikes(path)


def test_directories_need_one_file_of_each_kind(tmp_path, spike_directory):
    assert len(spikes.load_spike_corpus(str(spike_directory)).train) == 60
    with pytest.raises(DataError, match=r"exactly one \*train\*.h5 file, found none"):
        spikes.load_spike_corpus(str(tmp_path))
    with pytest.raises(DataError, match="no such directory"):
        spikes.load_spike_corpus(str(tmp_path / "nowhere"))
    write_spikes(tmp_path / "train.h5", classes=20)
    write_spikes(tmp_path / "test.h5", classes=10)
    with pytest.raises(DataError, match=r"has 10 classes, train\.h5 has 20"):
        spikes.load_spike_corpus(str(tmp_path))


def test_synthetic_recordings_say_so_and_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_RECORDINGS", {"train": 12, "test": 6})
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path / "one"))
    first = spikes.load_spike_corpus("synthetic")
    monkeypatch.setenv("ELMNET_CACHE", str(tmp_path / "two"))
    second = spikes.load_spike_corpus("synthetic")
    monkeypatch.setattr(spikes, "FileLock", None)  # nothing is written where all is there: it may be another user's
    spikes.load_spike_corpus("synthetic")
    assert "synthetic" in first.name
    assert np.array_equal(first.train.times, second.train.times)
    assert np.array_equal(first.train.units, second.train.units)
    assert first.train.classes == 10
    assert 1000 < len(first.train.times) / 12 < 10_000


def test_real_recordings(shared):
    corpus = spikes.load_spike_corpus(str(shared / "data"))
    assert (len(corpus.train), len(corpus.test), corpus.train.classes) == (2700, 300, 10)
    active = corpus.train.dense(np.arange(300), 0.002, 500).mean()
    assert active == pytest.approx(0.0116, rel=0.1)
