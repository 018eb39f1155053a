"""The export: final outcomes, counts, no names and no notes."""

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.review.export import export
from data_builder.review.store import Change
from data_builder.shards.sources import open_source
from tests.helpers.review_folder import A, B, new_action, table


def test_the_export_has_the_decisions_and_no_names(folder, store, tmp_path):
    keys = list(folder.rows)
    store.append("AB", new_action(), [Change("stu-0000", "label", "deep"), Change(A, "keep", "0")])
    store.append("AB", new_action(), [Change("stu-0001", "label", "normal")])
    changes = [Change("stu-0001", "label", "normal"), Change(B, "label", "lobar")]
    store.append("CD", new_action(), changes)
    changes = [Change(keys[7], "label", "ich"), Change(B, "note", "Jane Roe")]
    store.append("CD", new_action(), changes)
    store.append("CD", new_action(), [Change(keys[7], "label", "normal")])
    out = tmp_path / "out"
    counts = export(folder, store, out)
    rows = {row["key"]: row for row in table(out / "manifest.csv")}
    assert list(rows) == keys
    assert [rows[A][c] for c in ("keep", "hemorrhage", "location")] == ["0", "", ""]
    assert rows[B]["hemorrhage"] == "" and rows[B]["keep"] == ""  # open
    cells = [rows[keys[2]][c] for c in ("keep", "hemorrhage", "location", "label_level")]
    assert cells == ["1", "1", "deep", "study"]
    assert rows[keys[7]]["label_level"] == "slice" and rows[keys[7]]["hemorrhage"] == "0"
    assert rows[keys[12]] == folder.rows[keys[12]]
    assert counts["classes"] == {"normal": 6, "deep": 4, "lobar": 0, "subtentorial": 0}
    assert (counts["open"], counts["dropped"], counts["unread"]) == (1, 1, 6)
    source = open_source(out, Pseudonyms(PUBLIC_KEY))
    assert len(source.records) == 10 and source.kind == "cleaned"
    for path in out.rglob("*.*"):  # readers' names and notes stay in the store
        assert b"Jane" not in path.read_bytes()
    assert {row["reader"] for row in table(out / "decisions.csv")} == {"reader 1", "reader 2"}
    before = {p: p.read_bytes() for p in out.rglob("*.*")}
    export(folder, store, out)
    assert {p: p.read_bytes() for p in out.rglob("*.*")} == before
    assert (folder.path / "manifest.csv").read_text().count("deep") == 0
