"""What every test of a grid starts from."""

import pytest

from prefcourse.results import store


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """No test finds the reward models and samples of another."""
    monkeypatch.setattr(store, "_kept", {})
