"""Whitespace at the ends of files and lines."""

import pytest

from tools import end_of_file


@pytest.mark.parametrize(
    ("text", "tidy"), [("a\nb\n", "a\nb\n"), ("a", "a\n"), ("a \n\tb\t\n\n\n", "a\n\tb\n"), ("\n\n", ""), ("", "")]
)
def test_lines_and_files_end_without_spare_whitespace(text, tidy):
    assert end_of_file.tidy(text) == tidy


def test_files_are_repaired_and_named(tmp_path, capsys):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("a\n")
    bad.write_text("a  \n\n")
    assert end_of_file.main([str(good), str(bad)]) == 1
    assert bad.read_text() == "a\n" and capsys.readouterr().out == f"repaired {bad}\n"
    assert end_of_file.main([str(good), str(bad)]) == 0
