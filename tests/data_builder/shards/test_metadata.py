"""The metadata of a data set."""


def test_metadata_has_what_a_report_needs(source, shards):
    data = shards.metadata
    assert data["split"] == "subject" and data["phantom"] is False and data["size"] == 36
    assert data["leak"]["with_sibling_in_training"] == 0
    total = sum(sum(side["slices"].values()) for side in data["counts"].values())
    assert total == len(source.records)
    assert data["confounds"] == ["'year' is known for ICH slices only: a total confound"]
