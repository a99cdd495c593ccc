"""Runs: a model runs over views, and what was asked for is kept or changed."""
