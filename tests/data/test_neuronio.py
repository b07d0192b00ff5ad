import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import neuronio_document

from elmnet.data.neuronio import find_files, fingerprint, load_simulations
from elmnet.data.unpickle import load_plain
from elmnet.errors import DataError


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def written(path, document, protocol=2):
    path.write_bytes(pickle.dumps(document, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_files_of_every_protocol_are_read(tmp_path, protocol):
    document = neuronio_document(segments=4, seconds=0.05, simulations=3, seed=1)
    data = load_simulations(written(tmp_path / "sim.p", document, protocol))
    assert data.channels == 8
    assert data.steps == 50
    assert len(data) == 3
    one = document["Results"]["listOfSingleSimulationDicts"][1]
    x = data.window(1, 0, 60)
    assert x.shape == (60, 8)
    for key, first, sign in (("exInputSpikeTimes", 0, 1), ("inhInputSpikeTimes", 4, -1)):
        for segment, times in one[key].items():
            assert sorted(set(times)) == np.flatnonzero(x[:, first + segment]).tolist()
            assert (x[list(times), first + segment] == sign).all()
    assert np.flatnonzero(data.spikes[1]).tolist() == (one["outputSpikeTimes"] - 0.5).astype(int).tolist()
    assert np.allclose(data.soma[1], one["somaVoltageLowRes"], atol=1e-5)
    assert np.array_equal(data.window(1, 10, 20), x[10:30])
    assert np.array_equal(data.chosen(np.array([1])).window(0, 0, 60), x)


def test_python_2_pickles_and_gzip_are_read(tmp_path):
    """Python 2 wrote array data as latin-1 texts: the opcode is that of a short byte string of the old kind."""
    raw = np.array([1.5, -2.0]).tobytes()
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02U\x01bq\x03\x87q\x04Rq\x05"
        b"(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07U\x02f8q\x08K\x00K\x01\x87q\tRq\n(K\x03U\x01<q\x0bNNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tb."
    )
    assert load_plain(old, "x").value.tolist() == [1.5, -2.0]
    document = neuronio_document(segments=2, seconds=0.02, simulations=2)
    (tmp_path / "sim.p.gz").write_bytes(gzip.compress(pickle.dumps(document, protocol=2)))
    assert len(load_simulations(tmp_path / "sim.p.gz")) == 2


def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path):
    made = tmp_path / "made"
    for protocol in range(6):
        for document in (Evil(made), {"Params": {}, "Results": [Evil(made)]}):
            with pytest.raises(DataError, match=r"refused: this pickle names (posix|nt|os)\.mkdir"):
                load_simulations(written(tmp_path / "sim.p", document, protocol))
    assert not made.exists()
    pickle.loads(pickle.dumps(Evil(made)))  # what it would have done
    assert made.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"c_codecs\ndecode\n.",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"(S'ls'\nios\nsystem\n.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(S'f8'\nS'12345678'\ntR.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"Pid\n.",
        b"\x82\x01.",
        b"",
    ],
)
def test_every_other_name_and_damage_is_refused(program):
    with pytest.raises(DataError, match=r"x: (refused|damaged)"):
        load_plain(program, "x")


def test_a_pickle_cannot_change_the_reader():
    """BUILD sets attributes on what stands on the stack; what this reader hands out takes none."""
    for name in (b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"):
        with pytest.raises(DataError, match="damaged"):
            load_plain(name + b"(N}S'__doc__'\nS'evil'\nstb.", "x")
    assert load_plain(pickle.dumps(np.arange(3)), "x").value.tolist() == [0, 1, 2]


def test_arrays_come_back_as_they_were():
    for array in (np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 2), np.float16)):
        for protocol in (0, 2, 5):
            got = load_plain(pickle.dumps(array, protocol=protocol), "x").value
            assert got.dtype == array.dtype
            assert np.array_equal(got, array)
    assert load_plain(pickle.dumps({"a": np.float64(2.5), "b": np.int16(-3)}), "x") == {"a": 2.5, "b": -3}
    with pytest.raises(DataError, match="array of type 'O8'"):
        load_plain(pickle.dumps(np.array([{}], dtype=object)), "x")


def change(path, value):
    def apply(document):
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = value

    return apply


FIRST = ("Results", "listOfSingleSimulationDicts", 0)


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda document: document.pop("Params"), "has no 'Params'; not a NeuronIO simulation file"),
        (lambda document: document["Results"].clear(), "has no 'listOfSingleSimulationDicts'"),
        (change(("Params", "totalSimDurationInSec"), 1e9), "totalSimDurationInSec is 1000000000.0"),
        (change((*FIRST, "somaVoltageLowRes"), np.zeros(3)), "simulation 0: 3 soma voltages for 20 ms"),
        (change((*FIRST, "somaVoltageLowRes"), np.full(20, np.nan)), "simulation 0: holds a number that is not finite"),
        (change((*FIRST, "exInputSpikeTimes"), {0: [20]}), "simulation 0: input spike at 20 ms, outside 0..19"),
        (change((*FIRST, "inhInputSpikeTimes"), {7: [1]}), "names segment 7, outside 0..1"),
        (change((*FIRST, "outputSpikeTimes"), np.array([99.0])), "output spike at 98 ms"),
        (change((*FIRST, "outputSpikeTimes"), "soon"), "expected numbers"),
        (change((*FIRST, "exInputSpikeTimes"), [1]), "must map segments to spike times"),
    ],
)
def test_files_that_break_the_format_are_named(tmp_path, apply, words):
    document = neuronio_document(segments=2, seconds=0.02, simulations=2)
    apply(document)
    with pytest.raises(DataError, match=words):
        load_simulations(written(tmp_path / "sim.p", document))


def test_parts_follow_from_the_published_folders(tmp_path):
    for name in ("full_ergodic_train_batch_1", "full_ergodic_train_batch_10", "Data_test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sim__1.p").write_bytes(name.encode())
    parts = find_files(tmp_path)
    assert {part: [p.parent.name for p in paths] for part, paths in parts.items()} == {
        "train": ["full_ergodic_train_batch_10"],
        "valid": ["full_ergodic_train_batch_1"],
        "test": ["Data_test"],
    }
    before = fingerprint(parts["train"])
    parts["train"][0].write_bytes(b"other")
    assert fingerprint(parts["train"]) != before
    with pytest.raises(DataError, match="no such file or folder"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"pickles \(.*\) or a folder of them; .* elmnet train sequence --data rec\.npz"
    ):
        find_files(Path("rec.npz"))
