import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtvit_jax.decision.probability_text import probability_text, threshold_text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.5, "0.500"),
        (0.999, "0.999"),
        (0.001, "0.001"),
        (0.99901, "> 0.999"),
        (1.0, "> 0.999"),
        (0.0009, "< 0.001"),
        (0.0, "< 0.001"),
        (None, "n/a"),
        (float("nan"), "n/a"),
    ],
)
def test_a_probability_is_never_certain(p, text):
    assert probability_text(p) == text


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (0.5, "0.500"),
        (0.9994635, "0.99946"),
        (0.999999, "0.999999"),
        (1 - 1e-9, "> 0.999999"),
        (1.0, "> 0.999999"),
        (0.000123, "0.00012"),
        (0.0, "< 0.000001"),
    ],
)
def test_a_threshold_keeps_the_digits_that_it_needs(threshold, text):
    assert threshold_text(threshold) == text


@given(st.floats(0, 1))
def test_no_text_reads_zero_or_one(p):
    for text in (probability_text(p), threshold_text(p)):
        number = float(re.fullmatch(r"(?:[<>] )?(0\.\d+)", text).group(1))
        assert 0 < number < 1
        assert text[0] in "<>" or number == pytest.approx(p, rel=0.1, abs=5.01e-4)
