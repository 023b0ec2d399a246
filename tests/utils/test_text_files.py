"""Text of unknown encoding: what is read, and what the user hears of it."""

import pytest

from mova_jax.utils.text_files import decode_text, open_text, parse_json

TEXT = "Zoé’s café\nnaïve – ½\nplain\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_text_is_the_same_in_every_encoding(tmp_path, encoding):
    file = tmp_path / "a.txt"
    data = TEXT.encode(encoding)
    file.write_bytes(data)
    text, note = decode_text(data)
    assert text == TEXT
    assert note.startswith("it is not UTF-8 and was read as cp1252") == (encoding == "cp1252")
    with open_text(file) as (stream, same_note):
        assert (stream.read(), same_note) == (TEXT, note)


def test_pairs_of_cp1252_that_would_be_utf8_do_not_mislead():
    text = "« café\xa0»\nÉ\nà la carte\n"  # E9 A0 BB is a Chinese character in UTF-8
    assert decode_text(text.encode("cp1252"))[0] == text


def test_a_fault_in_utf8_costs_no_other_line():
    text, note = decode_text("Zoé\n".encode() + b"caf\xe9 \xe2\x82\xac\n" + "naïve\n".encode())
    assert text == "Zoé\ncafé €\nnaïve\n"
    assert note == (
        "1 lines, the first of them line 2, are not UTF-8; their other bytes were read as cp1252"
    )


def test_bytes_that_mean_nothing_are_counted():
    text, note = decode_text(b"caf\xe9 \x81\x8d\n")
    assert text == "café \ufffd\ufffd\n" and "2 bytes mean nothing there, either" in note


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(OSError, match=r"a Git LFS pointer .* `git lfs pull`"):
        with open_text(tmp_path / "a"):
            pass


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, b"\xff", "{]"])
def test_json_that_cannot_be_read_is_one_kind_of_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json('{"a": [1]}') == {"a": [1]}
