"""Where tests find evidence that this project did not make."""

from pathlib import Path

import pytest

_VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party and captured evidence; tests that need it are skipped where it is absent."""
    if not (_VECTORS / "README.md").is_file():
        pytest.skip("the shared test vectors are not on this machine")
    return _VECTORS
