"""Values from any door made into settings: what is accepted, what it becomes, and what is said of the rest."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdpainter.values import Checked, Range, at, convert, from_mapping, parse, places, required
from ldm.util import UserError


@dataclass(frozen=True)
class Inner(Checked):
    share: Annotated[float, Range(0, 1)] = 0.5
    size: Annotated[int, Range(64, step=64, wanted="a multiple of 64")] | None = None


@dataclass(frozen=True)
class Outer(Checked):
    how: Literal["fast", "exact"] = "exact"
    count: Annotated[int, Range(1, 9)] = 3
    words: str = ""
    loud: bool = False
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "here: count is 0: give a number from 1 to 9"),
        ({"count": 2.5}, "here: count must be a whole number, not 2.5"),
        ({"count": True}, "here: count must be a whole number, not True"),
        ({"count": math.inf}, "here: count must be a whole number, not inf"),
        ({"count": "3"}, "here: count must be a whole number, not '3'"),
        ({"count": 10**400}, "here: count is 1000000000"),
        ({"count": 10**9999}, "here: count is a number of thousands of digits: give a number from 1 to 9"),
        ({"count": None}, "here: count must be a whole number, not None"),
        ({"how": "best"}, "here: how must be one of fast, exact, not 'best'"),
        ({"words": 3}, "here: words must be text, not 3"),
        ({"loud": 1}, "here: loud must be true or false, not 1"),
        ({"inner": 3}, "here: inner must be a mapping, not 3"),
        ({"inner": {"share": math.nan}}, "here: inner.share is nan: give a number from 0 to 1"),
        ({"inner": {"share": 10**400}}, "here: inner.share is too large a number"),
        ({"inner": {"share": "half"}}, "here: inner.share must be a number, not 'half'"),
        ({"other": {"size": 96}}, "here: other.size is 96: give a multiple of 64"),
        ({"other": {"sizes": 96}}, "here: other: unknown key 'sizes'; did you mean 'size'?"),
        ({"cuont": 3}, "here: unknown key 'cuont'; did you mean 'count'?"),
        ({3: 3}, "here: unknown key 3; known keys: how, count, words, loud, inner, other"),
        ({"words": ["x" * 100]}, f"here: words must be text, not ['{'x' * 55}..."),
    ],
)
def test_what_is_wrong_is_named_in_one_line(values, message):
    with pytest.raises(UserError) as error:
        from_mapping(Outer, values, "here")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("count", [4, 4.0, np.int64(4), np.uint8(4), np.float64(4)])
@pytest.mark.parametrize("share", [1, 1.0, np.float32(1), np.int64(1)])
def test_numbers_become_plain_ones(count, share):
    made = Outer(count=count, inner=Inner(share=share))
    assert (made.count, type(made.count)) == (4, int)
    assert (made.inner.share, type(made.inner.share)) == (1.0, float)
    assert made == from_mapping(Outer, {"count": count, "inner": {"share": share}})


def test_a_value_is_checked_wherever_it_is_made():
    with pytest.raises(UserError, match=r"^count is 0: give a number from 1 to 9$"):
        Outer(count=0)
    with pytest.raises(UserError, match=r"^share is -1"):
        Outer(inner=Inner(share=-1))


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(-20, 20))
def test_a_range_holds_its_ends(low, high, number):
    assert (number in Range(low, high)) == (low <= number <= high)
    assert (number in Range(low, step=4)) == (number >= low and number % 4 == 0)
    assert number in Range() and math.nan not in Range() and -math.inf not in Range()


@given(st.integers(-(10**30), 10**30), st.floats(allow_nan=False), st.booleans(), st.text())
def test_what_is_written_is_read_back(whole, number, truth, text):
    assert convert(int, parse(int, str(whole)), "x") == whole
    assert convert(float, parse(float | None, str(number)), "x") == number
    assert convert(bool, parse(bool, str(truth)), "x") is truth
    assert parse(str | None, text) == text


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("3.0", 3), (" 3", 3), ("yes", None), ("3.5", None)])
def test_a_whole_number_may_have_a_point_as_tables_write_it(text, value):
    if value is None:
        with pytest.raises(UserError, match="must be a whole number"):
            convert(int, parse(int, text), "x")
    else:
        assert convert(int, parse(int, text), "x") == value


def test_places_reach_into_parts():
    assert list(places(Outer)) == [
        *("how", "count", "words", "loud"),
        *("inner", "inner.share", "inner.size", "other", "other.share", "other.size"),
    ]
    assert (
        required(places(Outer)["other.size"]) == Annotated[int, Range(64, step=64, wanted="a multiple of 64")]
    )
    outer = Outer(inner=Inner(share=0.1))
    assert (at(outer, "inner.share"), at(outer, "count"), at(outer, "other.share")) == (0.1, 3, None)
