import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import Aggregation, by_subject
from dtvit_jax.decision.predictions import COLUMNS, Predictions, read_csv, write_csv
from tests.helpers.predictions import make, replaced

HEADER = ",".join(COLUMNS)


def table(*rows):
    """(subject, hemorrhage, location, p_hemorrhage, p_location) a slice."""
    subject, hemorrhage, location, p, p_location = zip(*rows, strict=True)
    n = len(rows)
    return Predictions(
        key=np.array([f"k{i}" for i in range(n)]),
        subject=np.array(subject),
        hemorrhage=np.array(hemorrhage, np.int8),
        location=np.array(location, np.int8),
        p_hemorrhage=np.array(p, float),
        p_location=np.array(p_location, float),
        split=np.full(n, "test"),
        study=np.full(n, ""),
        fold=np.full(n, -1, np.int32),
    )


EVEN = (1 / 3, 1 / 3, 1 / 3)
AGGREGATIONS = [("mean", 1), ("mean", 3), ("noisy_or", 0)]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_file_is_read_as_it_was_written(tmp_path, kind):
    p = make()
    p = replaced(p, p_hemorrhage=p.p_hemorrhage.astype(kind), p_location=p.p_location.astype(kind))
    write_csv(tmp_path / "p.csv", p)
    q = read_csv(tmp_path / "p.csv")
    for name, column in vars(p).items():
        np.testing.assert_array_equal(np.asarray(getattr(q, name)).astype(column.dtype), column)
    assert [f.name for f in tmp_path.iterdir()] == ["p.csv"]


def test_truth_fold_and_location_task_may_be_unknown(tmp_path):
    p = make(subjects=2)
    n = len(p)
    p = replaced(
        p,
        hemorrhage=np.full(n, -1),
        location=np.full(n, -1),
        fold=np.full(n, -1),
        p_location=np.full((n, 3), np.nan),
    )
    write_csv(tmp_path / "p.csv", p)
    assert (tmp_path / "p.csv").read_text().splitlines()[1].split(",")[3:5] == ["", ""]
    q = read_csv(tmp_path / "p.csv")
    assert (q.hemorrhage == -1).all() and (q.location == -1).all() and (q.fold == -1).all()
    assert np.isnan(q.p_location).all()


def test_another_systems_file_with_three_columns_a_bom_and_extras_is_read(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("\ufeffmodel,p_hemorrhage,key,subject\r\nx,0.25,a,s\r\n\r\nx,1,b,s\r\n")
    q = read_csv(path)
    assert list(q.key) == ["a", "b"] and list(q.p_hemorrhage) == [0.25, 1.0]
    assert list(q.hemorrhage) == [-1, -1]


def test_location_probabilities_rounded_to_two_decimals_are_rescaled(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\nk,s,test,1,deep,0.9,0.33,0.33,0.33,,\n")
    np.testing.assert_allclose(read_csv(path).p_location, [EVEN])


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("k,s,test,1,deep,Jane,1,0,0,,", "p_hemorrhage"),
        ("k,s,test,1,deep,1.01,1,0,0,,", "p_hemorrhage"),
        ("k,s,test,1,deep,nan,1,0,0,,", "p_hemorrhage"),
        ("k,s,test,1,deep,,1,0,0,,", "p_hemorrhage"),
        ("k,s,test,2,deep,0.5,1,0,0,,", "hemorrhage"),
        ("k,s,test,1,Jane,0.5,1,0,0,,", "location"),
        ("k,s,test,0,deep,0.5,1,0,0,,", "location"),
        ("k,s,test,1,deep,0.5,1,Jane,0,,", "p_lobar"),
        ("k,s,test,1,deep,0.5,1,,0,,", "p_lobar"),
        ("k,s,test,1,deep,0.5,0.5,0.2,0,,", "p_deep"),
        (",s,test,1,deep,0.5,1,0,0,,", "key"),
        ("k,,test,1,deep,0.5,1,0,0,,", "subject"),
        ("a,s,test,1,deep,0.5,1,0,0,,", "key"),
        ("k,s,test,1,deep,0.5,1,0,0,,Jane", "fold"),
    ],
)
def test_an_invalid_value_is_refused_by_line_and_column_and_never_repeated(tmp_path, row, column):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\na,s,test,1,deep,0.5,1,0,0,,\n{row}\n")
    with pytest.raises(InputError, match=rf"line 3, column {column}: ") as error:
        read_csv(path)
    assert "Jane" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column key, subject, p_hemorrhage"),
        (b"key,subject\na,b\n", "no column p_hemorrhage"),
        (b"key,subject,p_hemorrhage,key\n", "twice"),
        (b"key,subject,p_hemorrhage\n", "no slice in it"),
        (b"key,subject,p_hemorrhage\na,b\n", "line 2: 2 cells under 3 columns"),
        (b"key,subject,p_hemorrhage\n\xff,b,1\n", "not UTF-8"),
        (b'key,subject,p_hemorrhage\n"a"b,c,1\n', "not a .csv"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, content, message):
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_csv(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")


def test_columns_of_different_lengths_are_refused():
    # With types checked, as in these tests, jaxtyping sees it first.
    with pytest.raises((ValueError, TypeError), match=r"lengths|n=1"):
        replaced(make(), key=np.array(["a"]))


def test_a_subject_is_scored_by_its_highest_slices():
    rows = [("s", 1, 0, p, EVEN) for p in (0.1, 0.9, 0.5, 0.7)]

    def score(method, k):
        return by_subject(table(*rows), Aggregation(method, k))[0].p_hemorrhage[0]

    means = {k: score("mean", k) for k in (1, 3, 9, 0)}
    assert means == pytest.approx({1: 0.9, 3: 0.7, 9: 0.55, 0: 0.55})
    assert score("noisy_or", 2) == pytest.approx(1 - 0.1 * 0.3)
    assert score("noisy_or", 0) == pytest.approx(1 - 0.9 * 0.1 * 0.5 * 0.3)


def test_a_subjects_location_is_weighted_by_p_hemorrhage_over_the_same_slices():
    rows = [
        ("s", 1, 0, 0.75, (1, 0, 0)),
        ("s", 1, 0, 0.25, (0, 1, 0)),
        ("s", 1, 0, 0.1, (0, 0, 1)),  # below the two highest: ignored
        ("t", 0, -1, 0.0, (1, 0, 0)),  # all weights 0: the plain mean
        ("t", 0, -1, 0.0, (0, 0, 1)),
    ]
    subjects, _ = by_subject(table(*rows), Aggregation("mean", 2))
    np.testing.assert_allclose(subjects.p_location, [[0.75, 0.25, 0], [0.5, 0, 0.5]])


@pytest.mark.parametrize(
    ("slices", "truth", "location", "tied"),
    [
        ([(0, -1), (0, -1)], 0, -1, False),
        ([(0, -1), (1, 2), (0, -1)], 1, 2, False),
        ([(1, 1), (1, 0), (1, 1)], 1, 1, False),
        ([(1, 1), (1, 0)], 1, -1, True),
        ([(1, 2), (1, -1), (1, -1)], 1, 2, False),
        ([(1, -1)], 1, -1, False),
        ([(-1, -1), (0, -1)], -1, -1, False),
        ([(-1, -1), (1, 0)], 1, 0, False),
    ],
)
def test_a_subjects_truth_follows_from_its_slices(slices, truth, location, tied):
    rows = [("s", hemorrhage, place, 0.5, EVEN) for hemorrhage, place in slices]
    subjects, ties = by_subject(table(*rows))
    assert (subjects.hemorrhage[0], subjects.location[0]) == (truth, location)
    assert ties == (["s"] if tied else [])


@given(st.randoms(use_true_random=False), st.sampled_from(AGGREGATIONS))
def test_the_order_of_slices_does_not_matter_even_among_equals(random, aggregation):
    p = make(subjects=6, slices=5)
    p = replaced(p, p_hemorrhage=np.round(p.p_hemorrhage, 1))
    order = list(range(len(p)))
    random.shuffle(order)
    first, _ = by_subject(p, Aggregation(*aggregation))
    second, _ = by_subject(p.select(np.array(order)), Aggregation(*aggregation))
    for name, column in vars(first).items():
        np.testing.assert_array_equal(getattr(second, name), column)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("mean", -1), "k is -1"), (("vote", 3), "mean or")]
)
def test_an_invalid_aggregation_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Aggregation(*arguments)
