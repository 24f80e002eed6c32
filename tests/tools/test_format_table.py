"""The table of docs/formats.md is what happens."""

from tools import format_table


def test_the_document_is_what_is_tried():
    assert format_table.main(["--check"]) == 0, "python -m tools.format_table"


def test_rows_say_what_files_show(tmp_path):
    tiff = dict(zip(format_table.COLUMNS, format_table.row("TIFF", tmp_path)))
    assert (tiff["read"], tiff["written"], tiff["bits"], tiff["pages"]) == ("yes", "yes", "8, 16", "all on request")
    assert all(name in tiff["metadata kept"] for name in ("EXIF", "XMP", "IPTC"))
    gif = dict(zip(format_table.COLUMNS, format_table.row("GIF", tmp_path)))
    assert (gif["written"], gif["pages"]) == ("as PNG", "all on request")


def test_a_table_that_is_out_of_date_is_told(tmp_path, monkeypatch, capsys):
    old = format_table.DOCUMENT.read_text().replace("| TGA |", "| TGB |")
    monkeypatch.setattr(format_table, "DOCUMENT", tmp_path / "formats.md")
    format_table.DOCUMENT.write_text(old)
    assert format_table.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert format_table.main([]) == 0 and format_table.main(["--check"]) == 0
