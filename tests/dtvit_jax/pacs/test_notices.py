"""Notices of one kind take one line and their number."""

from dtvit_jax.pacs.notices import Notices


def test_a_flood_of_notices_takes_few_lines(capsys):
    notices = Notices(seconds=0.0)
    for i in range(1000):
        notices.add("a connection was closed", f"from 10.0.0.{i}")
    notices.add("another kind")
    notices.flush()
    notices.flush()
    notices.add("another kind")
    assert capsys.readouterr().out.splitlines() == [
        "a connection was closed (from 10.0.0.0)",
        "another kind",
        "a connection was closed (999 more)",
        "another kind",
    ]


def test_notices_within_a_minute_are_counted_at_the_end(capsys):
    notices = Notices()
    for _ in range(3):
        notices.add("refused")
    notices.flush()
    assert capsys.readouterr().out == "refused\n"
    notices.flush(everything=True)
    assert capsys.readouterr().out == "refused (2 more)\n"
