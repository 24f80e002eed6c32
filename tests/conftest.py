"""Shared fixtures. Photos and TAESD's weights lie beside the checkout; tests that need them are skipped without them."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of test photos, training shards and TAESD's weights."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA.parent.name}/{DATA.name} beside the repository")
    return DATA
