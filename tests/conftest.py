"""For every suite: hypothesis without deadlines, as these tests run on busy machines, and in CI with the same examples
each time; and a garbage collector that does not go through all tests again and again."""

import gc
import os

from hypothesis import settings

from tests.examples import examples

settings.register_profile("local", deadline=None, max_examples=examples(100))
settings.register_profile("ci", deadline=None, max_examples=examples(100), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_finish() -> None:
    """What collection made stays until the end: without this, each full collection goes through thousands of tests."""
    gc.collect()
    gc.freeze()
