"""Reliability: how likely a model's output is wrong, from one run and from independent matches."""
