"""Hypothesis for every suite: no deadlines, as these tests run on busy machines; in CI the same examples each time."""

import os

from hypothesis import settings

from tests.examples import examples

settings.register_profile("local", deadline=None, max_examples=examples(100))
settings.register_profile("ci", deadline=None, max_examples=examples(100), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
