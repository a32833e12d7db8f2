"""The composition root: scheduler, store, API."""
