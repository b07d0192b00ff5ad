"""Reading somebody's own sequences, and what is refused."""

import duckdb
import h5py
import numpy as np
import pytest

from elmnet.data.sequence_files import load_sequences
from elmnet.data.sequences import checked
from elmnet.errors import DataError

X = np.arange(24.0).reshape(4, 3, 2)
Y = np.array([0, 1, 0, 1])


def test_arrays_become_padded_float32(tmp_path):
    x = X.copy()
    x[1, 2] = np.nan  # padding may hold anything
    np.savez(tmp_path / "a.npz", x=x, y=Y, lengths=[3, 2, 1, 3])
    found = load_sequences(str(tmp_path / "a.npz"))
    assert found.x.dtype == np.float32 and found.x.shape == (4, 3, 2)
    assert not found.x[1, 2].any() and not found.x[2, 1:].any()
    assert found.classes and not found.per_step
    assert checked(X[:, :, 0]).x.shape == (4, 3, 1)


def test_data_are_the_same_only_where_all_of_them_are():
    x = np.where(np.arange(3)[None, :, None] < 2, X, 0)
    same = {checked(x, Y).sha256, checked(x.copy(), Y.copy()).sha256}
    assert len(same) == 1
    for other in (
        checked(x, Y, lengths=np.full(4, 2)),
        checked(x, 1 - Y),
        checked(x),
        checked(x + 1, Y),
        checked(x, Y, group=Y),
    ):
        assert other.sha256 not in same


@pytest.mark.parametrize(
    ("y", "per", "per_step", "classes", "shape"),
    [
        (Y, "auto", False, True, (4,)),
        (np.array(["a", "b", "a", "b"]), "auto", False, True, (4,)),
        (Y > 0, "auto", False, True, (4,)),
        (np.ones((4, 3), dtype=int), "auto", True, True, (4, 3)),
        (Y * 0.5, "auto", False, False, (4, 1)),
        (np.ones((4, 2)), "auto", False, False, (4, 2)),
        (np.ones((4, 3)), "auto", True, False, (4, 3, 1)),
        (np.ones((4, 3)), "sequence", False, False, (4, 3)),
        (np.ones((4, 3, 2)), "step", True, False, (4, 3, 2)),
    ],
)
def test_the_shape_of_y_says_what_it_belongs_to(y, per, per_step, classes, shape):
    found = checked(X, y, per=per)
    assert (found.per_step, found.classes, found.y.shape) == (per_step, classes, shape)


def bad(**changes):
    return {"x": X, "y": Y, **changes}


def with_nan():
    x = X.copy()
    x[2, 1, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (bad(x=with_nan()), "sequence 2, step 1, channel 0: nan .in all 1 numbers not finite.; fill or remove"),
        (bad(x=np.full((4, 3, 2), 1e300)), "too large for float32"),
        (bad(x=X[0, 0]), r"x must be \(n, T, channels\) or \(n, T\), none of them 0, got \(2,\)"),
        (bad(x=np.zeros((4, 0, 2))), "none of them 0"),
        (bad(x=X.astype("U4")), "x must hold numbers, got <U4"),
        (bad(y=Y[:3]), r"y of classes must be \(4,\) or \(4, 3\), got \(3,\)"),
        (bad(y=np.ones((4, 2), dtype=int)), r"got \(4, 2\); whole numbers are classes, store values as floats"),
        (bad(y=np.zeros((4, 3, 2, 1))), r"y of values must be .*\(4, 3, k\), got \(4, 3, 2, 1\)"),
        (bad(y=np.array([0.5, np.inf, 1, 2])), "the target of sequence 1 is not finite .1 in all."),
        (bad(y=Y * 1e300), "y holds numbers too large for float32"),
        (bad(y=Y * 1j), "y must hold numbers or texts, got complex128"),
        (bad(lengths=[1, 2, 3]), "lengths must be 4 whole numbers, got"),
        (bad(lengths=[0, 1, 2, 3]), r"lengths must lie in 1\.\.3, got 0\.\.3"),
        (bad(lengths=[4, 1, 2, 3]), r"lengths must lie in 1\.\.3, got 1\.\.4"),
        (bad(group=[0.5, 1, 2, 3]), r"group must be 4 whole numbers or texts, got \(4,\) of float64"),
        (bad(group=[0, 1]), r"group must be 4 whole numbers or texts, got \(2,\)"),
        (
            bad(split=["train", "dev", "test", "valid"]),
            "split must be 4 of train, valid, test, .* of dev, test, train, valid",
        ),
    ],
)
def test_arrays_that_make_no_sense_are_refused_in_words(arrays, words):
    with pytest.raises(DataError, match=words):
        checked(**arrays)


def test_files_that_are_no_sequences_are_refused_in_words(tmp_path):
    np.savez(tmp_path / "objects.npz", x=X, y=np.array([{"a": 1}] * 4, dtype=object))
    np.savez(tmp_path / "nox.npz", y=Y)
    np.savez(tmp_path / "more.npz", x=X, labels=Y)
    np.savez(tmp_path / "cut.npz", x=X, y=Y)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-30])
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "text.csv").write_text("no table\n1\n")
    (tmp_path / "index.csv").write_text(",sequence,step,a\n0,1,1,2\n")
    (tmp_path / "short.csv").write_text("sequence,step,a\n1,1,2\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "utf16.csv").write_text("sequence\tstep\ta\n1\t1\t2\n", encoding="utf-16")
    (tmp_path / "twice.csv").write_text("sequence,step,a,target,target\n1,1,2,0,0\n")
    np.save(tmp_path / "one.npy", X)
    (tmp_path / "one.npy").rename(tmp_path / "renamed.npz")
    for name, words in (
        ("objects.npz", "Python objects, which elmnet does not unpickle"),
        ("nox.npz", "no array 'x'"),
        ("more.npz", "unknown array 'labels'"),
        ("cut.npz", "damaged or not an .npz archive"),
        ("text.parquet", "damaged or not Parquet"),
        ("renamed.npz", "damaged or not an .npz archive"),
        ("nothing.npz", "no such file"),
        ("text.csv", "has no column 'sequence'; it has no table"),
        ("index.csv", r"a column has no name .of pandas, an index: to_csv.index=False. leaves it out."),
        ("short.csv", "damaged or not CSV"),
        ("empty.csv", "holds no rows"),
        ("utf16.csv", "its text is not UTF-8; save it as that"),
        ("twice.csv", "several columns are called 'target'"),
        ("table.xls", "name an .npz, .h5, .parquet or .csv file"),
    ):
        with pytest.raises(DataError, match=words):
            load_sequences(str(tmp_path / name))


def parquet(path, select):
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT {select} ORDER BY random()) TO '{path}' (FORMAT parquet)")
    return str(path)


ROWS = "sequence, step, step * 0.5 AS a, sequence + 0.25 AS b"
RANGES = "FROM range(3) AS s(sequence), range(4) AS t(step) WHERE step <= sequence + 1"


def test_a_long_table_becomes_the_same_arrays(tmp_path):
    path = parquet(tmp_path / "t.parquet", f"{ROWS}, 'c' || sequence % 2 AS target {RANGES}")
    found = load_sequences(path)
    assert found.channels == ("a", "b") and found.lengths.tolist() == [2, 3, 4]
    assert found.x[1].tolist() == [[0, 1.25], [0.5, 1.25], [1, 1.25], [0, 0]]
    assert found.y.tolist() == ["c0", "c1", "c0"] and not found.per_step
    by_step = load_sequences(parquet(tmp_path / "s.parquet", f"{ROWS}, step * 1.5 AS target {RANGES}"))
    assert by_step.per_step and not by_step.classes
    assert by_step.y[0, :2, 0].tolist() == [0, 1.5] and np.isnan(by_step.y[0, 2:]).all()
    two = parquet(
        tmp_path / "two.parquet", f'{ROWS}, 1.5 AS "target.u", \'train\' AS split, 0.5 AS "target.v" {RANGES}'
    )
    assert load_sequences(two).y.tolist() == [[1.5, 0.5]] * 3
    assert load_sequences(two).split.tolist() == ["train"] * 3


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_csv_file_is_the_same_table(tmp_path, between):
    whole = parquet(tmp_path / "t.parquet", f"{ROWS}, 'c' || sequence % 2 AS target {RANGES}")
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM '{whole}') TO '{tmp_path}/t.csv' (FORMAT csv, HEADER, DELIMITER '{between}')")
    found, same = load_sequences(str(tmp_path / "t.csv")), load_sequences(whole)
    assert np.array_equal(found.x, same.x) and found.y.tolist() == same.y.tolist()
    assert (found.channels, found.lengths.tolist()) == (same.channels, same.lengths.tolist())
    gap = (tmp_path / "t.csv").read_text().replace("0.25", "")
    (tmp_path / "gap.CSV").write_text(gap)
    with pytest.raises(DataError, match="column 'b' is empty in 2 rows"):
        load_sequences(str(tmp_path / "gap.CSV"))


@pytest.mark.parametrize("between", [";", "\t"])
def test_decimal_commas_as_excel_writes_them(tmp_path, between):
    rows = [
        "sequence;step;U (mV);target",
        *(f'{i};{t};{t};"-1,5e1"' if t % 2 else f"{i};{t};{t},25;2,5" for i in "ab" for t in (1, 2)),
    ]
    (tmp_path / "t.csv").write_text("\r\n".join(rows).replace(";", between), encoding="utf-8-sig", newline="")
    found = load_sequences(str(tmp_path / "t.csv"))
    assert found.x[:, :, 0].tolist() == [[1, 2.25]] * 2 and found.channels == ("U (mV)",)
    assert found.y[:, :, 0].tolist() == [[-15, 2.5]] * 2 and not found.classes


@pytest.mark.parametrize(
    ("select", "words"),
    [
        (f"step, 1 AS a {RANGES}", "has no column 'sequence'; it has step, a"),
        (f"sequence, step {RANGES}", "no column besides sequence, step and target"),
        (f"sequence, 0 AS step, 1 AS a {RANGES}", "sequence 0 has step 0 twice"),
        (
            f"sequence, step * step AS step, 1 AS a {RANGES}",
            "sequence 1 jumps from step 1 to 4, where others are 1 apart",
        ),
        (f"{ROWS}, 'x' AS name {RANGES}", "column 'name' is not of numbers, but has 'x' .sequence 0, step 0."),
        (
            f"sequence, step, if(sequence = 1 AND step = 2, 'n/a', '0.5') AS a {RANGES}",
            "column 'a' is not of numbers, but has 'n/a' .sequence 1, step 2.",
        ),
        (f"sequence, step, nullif(step, 1) AS a {RANGES}", "column 'a' is empty in 3 rows"),
        (f"{ROWS}, if(step = 0, 'train', 'test') AS split {RANGES}", "column 'split' changes within sequence 0"),
        (f'{ROWS}, step AS "group" {RANGES}', "column 'group' changes within sequence 0"),
        (f"{ROWS}, 1 AS target {RANGES} AND step < 0", "holds no rows"),
        (f'{ROWS}, 1.5 AS "target.u", \'b\' AS "target.v" {RANGES}', "columns must all hold values, not classes"),
        (f"sequence, 'x' || step AS step, 1 AS a {RANGES}", "column 'step' must hold numbers, or .* got 'x0'"),
        (
            f"sequence, TIME '00:00:01' AS step, 1 AS a {RANGES}",
            "or times with their dates, got '00:00:01'; leave it out",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused_in_words(tmp_path, select, words):
    with pytest.raises(DataError, match=words):
        load_sequences(parquet(tmp_path / "bad.parquet", select))


def test_places_and_steps_are_what_the_file_calls_them(tmp_path):
    path = tmp_path / "lr=3" / "t[1]*?.parquet"  # a folder's name is no channel, a file's no pattern
    path.parent.mkdir()
    rows = "10 * (i // 4 + 1) AS sequence, 100 * (i % 4) AS step, {x} AS a, i // 4 AS target FROM range(12) t(i)"
    parquet(path, rows.format(x="i * 1.0::DOUBLE"))
    read = load_sequences(str(path))
    assert read.channels == ("a",)
    assert read.steps.tolist() == [[0, 100, 200, 300]] * 3
    parquet(path, rows.format(x="CASE WHEN i = 6 THEN 'nan'::DOUBLE ELSE i END"))
    with pytest.raises(DataError, match="sequence 20, step 200, a: nan"):
        load_sequences(str(path))


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return str(path)


@pytest.mark.parametrize("ending", ["h5", "HDF5"])
def test_an_hdf5_file_holds_the_same_arrays(tmp_path, ending):
    arrays = {"x": X, "y": ["up", "down", "up", "down"], "lengths": [3, 2, 1, 3], "group": ["a", "a", "b", "c"]}
    arrays |= {"split": ["train", "valid", "test", "train"], "channels": ["left", "right"]}
    np.savez(tmp_path / "a.npz", **arrays)
    found, same = load_sequences(h5(tmp_path / f"a.{ending}", **arrays)), load_sequences(str(tmp_path / "a.npz"))
    assert found.channels == ("left", "right")
    for name in ("x", "y", "lengths", "group", "split", "channels", "classes"):
        assert np.array_equal(getattr(found, name), getattr(same, name))
    values = load_sequences(h5(tmp_path / "v.h5", x=X, y=np.ones((4, 2)), values=["speed", "drift"]))
    assert values.values == ("speed", "drift") and not values.classes
    assert load_sequences(str(tmp_path / "v.h5"), targets=False).y is None


def test_hdf5_files_that_are_no_sequences_are_refused_in_words(tmp_path):
    whole = h5(tmp_path / "whole.h5", x=X, y=Y)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:-40])
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "ragged.h5", "w") as file:
        file.create_dataset("x", (2,), dtype=h5py.vlen_dtype(float))
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["x/one"] = X
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("x", (10**6, 10**6), dtype="f4", chunks=(10, 10))
    h5(tmp_path / "nox.h5", y=Y)
    h5(tmp_path / "more.h5", x=X, labels=Y)
    h5(tmp_path / "texts.h5", x=["a", "b"])
    h5(tmp_path / "names.h5", x=X, channels=[1, 2])
    h5(tmp_path / "few.h5", x=X, channels=["a"])
    h5(tmp_path / "same.h5", x=X, y=Y * 0.5, values=["a", "b"])
    assert load_sequences(whole).y.tolist() == Y.tolist()
    for name, words in (
        ("cut", "damaged or not HDF5"),
        ("text", "damaged or not HDF5"),
        ("ragged", "x holds neither numbers nor texts of one shape; pad what differs in length"),
        ("group", "x is no array"),
        ("bomb", r"x declares \(1000000, 1000000\), more than the file can hold"),
        ("nox", "no array 'x'"),
        ("more", "unknown array 'labels'; a file of sequences holds x, and y, lengths, split, group, channels, values"),
        ("texts", "x must hold numbers"),
        ("names", "channels must be a list of texts"),
        ("few", "channels must be 2 different names, got a"),
        ("same", "values must name the 1 values of y, got a, b"),
    ):
        with pytest.raises(DataError, match=words):
            load_sequences(str(tmp_path / f"{name}.h5"))


def test_values_of_steps_may_be_missing(tmp_path):
    y = np.arange(24.0).reshape(4, 3, 2)
    y[1, 2, 0] = np.nan
    with pytest.raises(DataError, match=r"sequence 1, step 2 is not finite \(1 in all\); options\.missing=skip leaves"):
        checked(X, y)
    assert np.argwhere(np.isnan(checked(X, y, missing=True).y)).tolist() == [[1, 2, 0], [1, 2, 1]]  # both of the step
    for wrong, words in (
        (np.where(np.arange(4)[:, None, None] == 2, np.nan, y), "sequence 2 has no target at any step; leave it out"),
        (np.where(y == 0, np.inf, y), "the target of sequence 0, step 0 is not finite"),
        (np.array([1.5, np.nan, 1, 2]), r"the target of sequence 1 is not finite \(1 in all\)$"),
    ):
        with pytest.raises(DataError, match=words):
            checked(X, wrong, missing=True)
    path = parquet(tmp_path / "t.parquet", f"{ROWS}, nullif(step, 1) * 1.5 AS target {RANGES}")
    assert np.isnan(load_sequences(path, missing=True).y[:, :, 0]).sum(1).tolist() == [3, 2, 1]
    with pytest.raises(DataError, match=r"sequence 0, step 1 is not finite \(3 in all\); options\.missing=skip"):
        load_sequences(path)


def test_groups_are_no_channel(tmp_path):
    table = load_sequences(parquet(tmp_path / "t.parquet", f"{ROWS}, 'mouse' || sequence % 2 AS \"group\" {RANGES}"))
    assert table.channels == ("a", "b") and table.group.tolist() == ["mouse0", "mouse1", "mouse0"]
    np.savez(tmp_path / "a.npz", x=X, group=[7, 7, 8, 9])
    assert load_sequences(str(tmp_path / "a.npz")).group.tolist() == [7, 7, 8, 9]


def test_rows_without_a_column_of_steps_are_in_order(tmp_path):
    (tmp_path / "t.csv").write_text("sequence,a\nb,3\na,1\nb,2\na,5\nb,1\n")
    found = load_sequences(str(tmp_path / "t.csv"))
    assert found.ids.tolist() == ["a", "b"] and found.steps is None
    assert found.x[:, :, 0].tolist() == [[1, 5, 0], [3, 2, 1]]
    rows = "sequence,step,a\n1,18,0\n1,24,0\n1,25,0\n1,40,0\n"
    (tmp_path / "gap.csv").write_text(rows)
    with pytest.raises(
        DataError, match=r"from step 18 to 24, .*\(2 gaps in all\); fill the rows in between, or leave out"
    ):
        load_sequences(str(tmp_path / "gap.csv"))
    (tmp_path / "times.csv").write_text(rows.replace("25", "24.5"))  # times, which order rows alone
    assert load_sequences(str(tmp_path / "times.csv")).lengths.tolist() == [4]


def test_bytes_are_texts(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 1)), y=np.array([b"no", b"yes"]))
    assert load_sequences(str(tmp_path / "d.npz")).y.tolist() == ["no", "yes"]
    parquet(tmp_path / "d.parquet", "i AS sequence, 0 AS step, 1.0 AS a, 'x'::BLOB AS target FROM range(3) t(i)")
    assert load_sequences(str(tmp_path / "d.parquet")).y.tolist() == ["x"] * 3
    np.savez(tmp_path / "bad.npz", x=np.zeros((1, 3, 1)), y=np.array([b"\xff"]))
    with pytest.raises(DataError, match="bytes that are no text"):
        load_sequences(str(tmp_path / "bad.npz"))


def test_an_index_of_pandas_is_no_channel(tmp_path):
    """Sorted by target before it was written, it would give the target away."""
    path = parquet(tmp_path / "t.parquet", f'{ROWS}, 7 AS target, 5 AS "__index_level_0__" {RANGES}')
    assert load_sequences(path).channels == ("a", "b")
    (tmp_path / "t.csv").write_text("Unnamed: 0,sequence,a,target\n0,1,5,0\n1,2,6,1\n")  # read and written again
    assert load_sequences(str(tmp_path / "t.csv")).channels == ("a",)


def test_targets_are_read_as_they_are_wanted(tmp_path):
    empty = parquet(tmp_path / "t.parquet", f"{ROWS}, nullif(step, 1) AS target {RANGES}")
    assert load_sequences(empty, targets=False).y is None
    same = parquet(tmp_path / "s.parquet", f"{ROWS}, 3 AS target {RANGES}")
    assert load_sequences(same).classes and not load_sequences(same).per_step
    assert not load_sequences(same, values=True).classes and load_sequences(same, "step").per_step


def test_a_column_s_name_is_no_command(tmp_path):
    """Nor do quotes in it hurt."""
    assert load_sequences(parquet(tmp_path / "q.parquet", f'{ROWS}, 1 AS "c""d" {RANGES}')).channels[-1] == 'c"d'
    stolen = tmp_path / "stolen.csv"
    name = f"""x") FROM rows; COPY (SELECT 42) TO '{stolen}'; SELECT count("x""".replace('"', '""')
    load_sequences(parquet(tmp_path / "evil.parquet", f'{ROWS}, 1 AS "{name}" {RANGES}'))
    assert not stolen.exists()


def test_classes_of_every_step_are_not_a_sequence_s():
    with pytest.raises(DataError, match=r"options\.per=sequence needs a y of \(4,\)"):
        checked(X, np.zeros(X.shape[:2], dtype=int), per="sequence")
