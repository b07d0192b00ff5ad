"""A folder with a file for each sequence, and what is refused of it."""

import re

import duckdb
import numpy as np
import pytest

from elmnet.data.sequence_files import load_sequences
from elmnet.errors import DataError

FEW = "left,right\n1,2\n3,4.5\n"
MORE = "right,left\n1,0\n2,0\n3,0\n"


def folder(path, **files):
    """Files by their place below a folder, `__` for `/` and the ending last: texts, or arrays."""
    for name, content in files.items():
        place = path / name.replace("__", "/").replace("_csv", ".csv").replace("_npy", ".npy")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            place.write_text(content)
        else:
            np.save(place, content)
    return str(path)


def test_tables_with_a_table_of_targets(tmp_path):
    told = "file,group,target.speed,target.load\n02.csv,b,0.5,1.0\n01,a,1.5,2.0\n"
    made = folder(tmp_path / "runs", **{"01_csv": FEW, "02_csv": MORE, "targets_csv": told, "readme": "no data"})
    (tmp_path / "runs" / ".hidden.csv").write_text("x")
    found = load_sequences(made)
    assert (found.name, found.ids.tolist(), found.channels) == ("runs", ["01", "02"], ("left", "right"))
    assert found.x.tolist() == [[[1, 2], [3, 4.5], [0, 0]], [[0, 1], [0, 2], [0, 3]]]
    assert found.y.tolist() == [[1.5, 2], [0.5, 1]] and found.values == ("speed", "load") and not found.per_step
    assert found.group.tolist() == ["a", "b"] and found.lengths.tolist() == [2, 3]
    digest = found.sha256
    assert load_sequences(made).sha256 == digest
    (tmp_path / "runs" / "targets.csv").write_text(told.replace("0.5", "0.6"))
    assert load_sequences(made).sha256 != digest
    (tmp_path / "runs" / "targets.csv").unlink()
    assert load_sequences(made, targets=False).y is None  # as for predictions


@pytest.mark.parametrize("steps", [2, 3])
def test_classes_and_parts_are_folders(tmp_path, steps):
    arrays = {
        f"{part}__{kind}__{i}_npy": np.full((steps + i, 2), i)
        for part in ("train", "test")
        for kind in "ab"
        for i in (0, 1)
    }
    found = load_sequences(folder(tmp_path, **arrays))
    assert found.ids.tolist() == ["test/a/0", "test/a/1", "test/b/0", "test/b/1"] + [
        f"train/{k}/{i}" for k in "ab" for i in (0, 1)
    ]
    assert found.y.tolist() == ["a", "a", "b", "b"] * 2 and found.classes and not found.per_step
    assert found.split.tolist() == ["test"] * 4 + ["train"] * 4
    assert found.x[1].tolist() == [[1, 1]] * (steps + 1)
    assert load_sequences(str(tmp_path), targets=False).split is None


def test_files_may_hold_steps_and_their_targets(tmp_path):
    files = {"a_csv": "step,x,target\n2,5,0\n1,4,1\n", "b_csv": "step,x,target\n1,3,1\n2,7,1\n"}
    found = load_sequences(folder(tmp_path, **files))
    assert found.x[:, :, 0].tolist() == [[4, 5], [3, 7]] and found.y.tolist() == [[1, 0], [1, 1]] and found.per_step
    with duckdb.connect() as connection:
        for name in "ab":
            connection.execute(f"COPY (FROM '{tmp_path}/{name}.csv') TO '{tmp_path}/{name}.parquet' (FORMAT parquet)")
            (tmp_path / f"{name}.csv").unlink()
    same = load_sequences(str(tmp_path))
    assert np.array_equal(same.x, found.x) and same.y.tolist() == found.y.tolist()


TOLD = "file,target\na,0\n"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme": "x"}, "no .npy, .parquet, .csv in this folder; name a folder with a file for each sequence"),
        ({"a_csv": FEW, "b_npy": np.ones(3)}, "holds .csv and .npy files; a folder of sequences holds one kind"),
        ({"a_csv": FEW, "b_csv": "left\n1\n"}, "column 'right' is empty in 1 rows, first of .*b.csv"),
        ({"a_csv": FEW, "b_csv": "left,right\n"}, "b.csv: holds no rows"),
        ({"a_csv": "sequence,x\n1,2\n"}, "damaged or not CSV: .*sequence"),
        ({"a_npy": np.ones((3, 2)), "b_npy": np.ones((3, 1))}, r"b.npy: has 1 channels, a.npy has 2"),
        ({"a_npy": np.ones((3, 2, 1))}, r"a.npy: must be \(T, channels\) or \(T,\), none of them 0, got \(3, 2, 1\)"),
        ({"a_npy": np.array([None])}, "a.npy: damaged, or no plain array of NumPy"),
        ({"a_npy": np.array(["x"])}, "'channel 0' is not of numbers"),
        ({"a_npy": np.array([0, np.nan])}, "sequence a, step 1, channel 0: nan"),
        ({"train__a_npy": np.ones(3), "val__b_npy": np.ones(3)}, "folder 'val' lies beside train; parts are called"),
        ({"train__a_npy": np.ones(3), "b_npy": np.ones(3)}, "b lies beside train; parts are called"),
        ({"u__v__a_npy": np.ones(3)}, "u/v/a lies deeper than"),
        ({"u__a_npy": np.ones(3), "b_npy": np.ones(3)}, "b is not in the folder of a class, but others are"),
        (
            {"u__a_npy": np.ones(3), "targets_csv": "file,target\nu/a,0\n"},
            "'target', but folder names say it, too",
        ),
        ({"a_csv": "x,target\n1,2\n", "targets_csv": TOLD}, "'target' is a column of the files, but given for"),
        ({"b_npy": np.ones(3), "targets_csv": TOLD}, "targets.csv: there is no file a"),
        ({"a_npy": np.ones(3), "b_npy": np.ones(3), "targets_csv": TOLD}, "targets.csv: has no row for b"),
        ({"a_npy": np.ones(3), "targets_csv": TOLD + "a.npy,1\n"}, "targets.csv: lists a twice"),
        ({"a_npy": np.ones(3), "targets_csv": "file,label\na,0\n"}, "targets.csv: unknown column 'label'; known: file"),
        ({"a_npy": np.ones(3), "targets_csv": "name,target\na,0\n"}, "targets.csv: has no column 'file'; it has name"),
        ({"a_npy": np.ones(3), "targets_csv": "file,target\na,\n"}, "targets.csv: column 'target' is empty in 1 rows"),
    ],
)
def test_folders_that_make_no_sense_are_refused_in_words(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        load_sequences(folder(tmp_path, **files))


def test_a_file_may_be_cut_or_lie_about_its_size(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((100, 2)))
    whole = (tmp_path / "a.npy").read_bytes()
    for bad in (whole[:-8], whole[:20], b"", re.sub(rb"\(100, 2\)", rb"(10000000000000, 2)", whole)):
        (tmp_path / "a.npy").write_bytes(bad)
        with pytest.raises(DataError, match=r"a\.npy: damaged"):
            load_sequences(str(tmp_path))


def test_two_files_of_one_name(tmp_path):
    folder(tmp_path, a_csv=FEW)
    (tmp_path / "a.CSV").write_text(FEW)
    with pytest.raises(DataError, match="two files differ in their endings alone"):
        load_sequences(str(tmp_path))


def test_there_may_be_more_files_than_a_process_can_open(tmp_path, monkeypatch):
    folder(
        tmp_path,
        **{f"{i}_csv": f"x,y\n{i},0\n{i},1.5\n" for i in range(5)},
        targets_csv="file,target\n" + "".join(f"{i},{i % 2}\n" for i in range(5)),
    )
    whole = load_sequences(str(tmp_path))
    monkeypatch.setattr("elmnet.data.recordings.AT_ONCE", 2)
    parts = load_sequences(str(tmp_path))
    assert np.array_equal(parts.x, whole.x) and parts.y.tolist() == [0, 1, 0, 1, 0] and parts.channels == ("x", "y")
    folder(tmp_path, **{"4_csv": "x,z\n1,2\n"})
    with pytest.raises(DataError, match="column 'y' is not in all of the files"):
        load_sequences(str(tmp_path))
