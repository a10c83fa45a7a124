"""Values as people read them."""

import math

import pytest

from shmoo.estimators.units import counted, percent, si, size


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234e-3, "s", "1.23 ms"),
        (45.6e9, "B/s", "45.6 GB/s"),
        (0.0123, "J", "12.3 mJ"),
        (100e-12, "J/B", "100 pJ/B"),
        (1e12, "flop/s", "1.00 Tflop/s"),
        (2.5, "W", "2.50 W"),
        (0.9996e-3, "s", "1.00 ms"),
        (0.99949e-3, "s", "999 µs"),
        (-3.2e-6, "s", "-3.20 µs"),
        (1500.0, "s", "1500 s"),
        (0, "J", "0 J"),
        (4.1e9, "1", "4.10 G"),
        (4.1e9, "", "4.10 G"),
        (0.0456, "1", "0.0456"),
        (8, "1", "8.00"),
        (0.543, "/s", "0.543 /s"),
        (5430.0, "/s", "5.43 k/s"),
    ],
)
def test_prefix_leaves_one_to_three_digits(value, unit, text):
    """The prefix follows the rounded value, seconds never become kiloseconds, bare numbers keep no unit."""
    assert si(value, unit) == text


def test_unknown_is_said_and_not_zero():
    """`None` reads as unknown in every formatter."""
    assert {si(None, "s"), size(None), percent(None)} == {"unknown"}


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (48 * 1024, "48.0 KiB"),
        (1.25 * 2**20, "1.25 MiB"),
        (2**20 - 1, "1.00 MiB"),
        (3 * 2**40, "3.00 TiB"),
    ],
)
def test_memory_sizes_are_powers_of_1024(nbytes, text):
    """1 KiB is 1024 bytes, and rounding never shows 1024 of a unit."""
    assert size(nbytes) == text


def test_percent_can_show_its_sign():
    """A signed per cent shows plus as well as minus."""
    assert (percent(0.1234), percent(0.1234, signed=True), percent(-0.05, signed=True)) == ("12.3 %", "+12.3 %", "-5.0 %")


@pytest.mark.parametrize("nothing", [0.0, -0.0, 4e-5, -4e-5])
def test_what_rounds_to_zero_has_no_sign(nothing):
    """Neither plus nor minus."""
    assert percent(nothing) == percent(nothing, signed=True) == "0.0 %"


def test_one_thing_is_not_several():
    """Thousands are told apart."""
    assert [counted(n, "case") for n in (0, 1, 2, 2000)] == ["0 cases", "1 case", "2 cases", "2,000 cases"]


def test_infinity_does_not_break_a_table():
    """A ratio that overflowed still prints."""
    assert si(math.inf, "s") == "inf s"
