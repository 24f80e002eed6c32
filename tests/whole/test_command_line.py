"""What the commands share: arguments, errors in one line, exit statuses."""

import argparse

import pytest

from seada_core.command_line import INTERRUPTED, Parser, checked, exit_status, names, number, within
from seada_core.errors import CommandError, one_line, reason
from seada_core.options import ColorizeOptions


@pytest.mark.parametrize(
    "kind, good, bad, expected",
    [
        (number(int, 1), ("1", "70"), ("0", "1.5", "many"), "a whole number of at least 1"),
        (number(float, 0, 10), ("0", "2.5"), ("-1", "11", "nan", ""), "a number from 0 to 10"),
        (number(int, high=4), ("-3", "4"), ("5",), "a whole number of at most 4"),
        (number(int, 8, 64, multiple=8), ("8", "64"), ("12", "0"), "a multiple of 8 from 8 to 64"),
        (number(float), ("1e3",), ("x",), "a number"),
        (within(ColorizeOptions.limits("temperature")), ("0.1",), ("0", "inf"), "a number above 0"),
        (within(ColorizeOptions.limits("steps")), ("1",), ("0",), "a whole number of at least 1"),
    ],
)
def test_numbers(kind, good, bad, expected):
    for text in good:
        assert kind(text) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            kind(text)
        assert str(error.value) == f"{text!r} is not {expected}"


def test_names():
    assert names(("a", "b", "c"))("a, c") == ("a", "c")
    with pytest.raises(argparse.ArgumentTypeError, match="'d' is not one of a, b"):
        names(("a", "b"))("a,d")


def test_a_bad_argument_is_one_line_and_status_2(capsys):
    def even(text):
        if int(text) % 2:
            raise ValueError(f"{text} is odd")
        return int(text)

    parser = Parser(prog="it")
    parser.add_argument("--even", type=checked(even))
    for arguments, message in ((["--even", "3"], "3 is odd"), (["--ev", "2"], "--ev")):
        assert exit_status(lambda arguments=arguments: bool(parser.parse_args(arguments))) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert message in error and "--help" in error


def raising(error):
    def command():
        raise error

    return command


def test_exit_statuses(capsys):
    assert exit_status(lambda: 1) == 1
    assert exit_status(raising(CommandError("the disk is full"))) == 1
    assert exit_status(raising(CommandError("no such option", 2))) == 2
    assert exit_status(raising(KeyboardInterrupt()), "what is done stays") == INTERRUPTED
    assert capsys.readouterr().err == (
        "error: the disk is full\nerror: no such option\nerror: interrupted; what is done stays\n"
    )
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0)


def test_errors_in_one_line():
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(MemoryError()) == "MemoryError"
    assert len(one_line("x" * 1000)) == 403
    assert reason(OSError(28, "No space left on device", "photo.png")) == "No space left on device"
    assert reason(ValueError("bad\nthing")) == "bad thing"
