"""Missing and doubled slices are noted, a change of spacing is not."""

from data_builder.cleaning.series import gaps_and_doubles
from tests.helpers.source_folder import clean, put_study, read_table


def test_gaps_and_doubles_by_hand():
    assert gaps_and_doubles([0.0, 5.0, 10.0, 20.0, 25.0, 25.0, 30.0]) == [
        (10, "1 missing after it"),
        (25, "doubled"),
    ]
    # Spacing changes once, as in a base of thin and a crown of thick slices: nothing is missing.
    assert gaps_and_doubles([0.0, 4.0, 8.0, 12.0, 13.1, 20.0, 27.0, 34.0]) == []
    assert gaps_and_doubles([0.0, 5.0, 20.0]) == [(5, "2 missing after it")]
    assert gaps_and_doubles([0.0, 30.0]) == [] == gaps_and_doubles([float("nan")])


def test_a_missing_slice_is_noted(tmp_path):
    put_study(tmp_path / "src", slices=6)
    (tmp_path / "src" / "visit" / "003").unlink()
    assert clean(tmp_path / "src", tmp_path / "out").notes == 1
    (note,) = read_table(tmp_path / "out", "notes.csv")
    assert (note["position_mm"], note["note"]) == ("10.000", "1 missing after it")
