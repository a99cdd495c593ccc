"""Runs: run a model over views, and record or change what was requested."""
