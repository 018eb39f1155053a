import pytest

from dtvit_jax.experiments import page


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Few resamples, and no figures, which have a test of their own."""
    monkeypatch.setattr(page, "RESAMPLES", 60)
    monkeypatch.setattr(page, "RESAMPLES_ON_THE_WAY", 20)
    monkeypatch.setattr(page, "draw", lambda done, out: {})
