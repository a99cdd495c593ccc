"""Tests of reliability share a small backbone and go without a compiler."""

from tests.training.conftest import CONFIG, _no_compiler, model, rooms

__all__ = ["CONFIG", "_no_compiler", "model", "rooms"]
