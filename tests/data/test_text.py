import bz2
import gzip
import lzma
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmnet.data import text
from elmnet.errors import DataError

TEXT = b"to be or not to be\n" * 200


def packed(directory, kind):
    path = directory / f"text.{kind}"
    if kind == "xz":
        path.write_bytes(lzma.compress(TEXT))
    elif kind == "gz":
        path.write_bytes(gzip.compress(TEXT))
    elif kind == "bz2":
        path.write_bytes(bz2.compress(TEXT))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text", TEXT)
    else:
        path.write_bytes(TEXT)
    return path


@pytest.mark.parametrize("kind", ["txt", "xz", "gz", "bz2", "zip"])
def test_every_packing_reads_the_same(tmp_path, kind):
    corpus = text.load_corpus(str(packed(tmp_path, kind)))
    assert corpus.data == TEXT
    assert corpus.name == f"text.{kind}"


@pytest.mark.parametrize("kind", ["xz", "gz", "zip"])
def test_truncated_files_are_refused(tmp_path, kind):
    path = packed(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"text.{kind}: damaged or unreadable"):
        text.load_corpus(str(path))


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file; name a text file, 'official'"):
        text.load_corpus(str(tmp_path / "nothing"))
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="holds no text"):
        text.load_corpus(str(tmp_path / "empty"))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("b", "b")
    with pytest.raises(DataError, match="exactly one file, holds 2"):
        text.load_corpus(str(tmp_path / "two.zip"))


def test_embedded_default_is_real_text_without_tests():
    corpus = text.load_corpus(text.STDLIB)
    assert "standard library" in corpus.name
    assert len(corpus.data) > 5_000_000
    assert b"def " in corpus.data
    assert b"class LongExpText(unittest.TestCase)" not in corpus.data
    assert corpus.data == text.load_corpus(text.STDLIB).data


def test_split_is_by_bytes_before_preparation():
    data = bytes(range(200)) * 100
    parts = text.split(data)
    assert parts["train"] + parts["valid"] + parts["test"] == data
    assert [len(parts[p]) for p in ("train", "valid", "test")] == [18_000, 1000, 1000]
    with pytest.raises(DataError, match="too few"):
        text.split(data[:1000])


def test_official_split_sizes():
    parts = text.split(bytes(100_000_000))
    assert [len(part) for part in parts.values()] == [90_000_000, 5_000_000, 5_000_000]


def test_prefix_of_enwik8_has_its_symbols(shared):
    corpus = text.load_corpus(str(shared / "data" / "enwik8_first_3900000.xz"))
    assert corpus.sha256 == "54aee4bc40a26a2cb9477801f35a809e73224b2d2a53096f941eb22aac9bbc2a"
    assert len(text.Vocabulary.of(corpus.data)) == 200
    assert len(text.Vocabulary.of(text.prepare(corpus.data, "txl"))) == 199


def test_vocabulary_is_numbered_by_falling_frequency_ties_by_byte():
    assert text.Vocabulary.of(b"ccc bb aa").symbols == tuple(b"c ab")


@given(st.binary(min_size=1, max_size=300))
def test_encoding_round_trips(data):
    vocabulary = text.Vocabulary.of(data)
    assert vocabulary.decode(vocabulary.encode(data, "bytes")) == data
    assert vocabulary.encode(data, "bytes").max() == len(vocabulary) - 1


def test_unknown_symbols_are_refused_by_byte_and_raw_offset():
    vocabulary = text.Vocabulary.of(b"abc")
    with pytest.raises(DataError, match=r"poem: byte 0x7a at offset 4 is not among the 3 symbols.*2 such bytes"):
        vocabulary.encode(b"ab\nczaz", "txl", "poem")
    with pytest.raises(DataError, match="byte 0x0a at offset 2"):
        vocabulary.encode(b"ab\nc", "bytes")


def test_impossible_vocabularies_are_refused():
    for symbols in ([1, 1], [256], [-1]):
        with pytest.raises(DataError, match="distinct byte values"):
            text.Vocabulary(symbols)
