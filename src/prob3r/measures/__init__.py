"""Measures: what is measured of one batch of scenes, each defined once."""
