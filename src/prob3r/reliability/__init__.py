"""Reliability: how likely an outcome is wrong, from signals of one run and from other evidence."""
