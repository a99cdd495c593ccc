"""Shared code of studies of cuts: effects, contrasts, losses, and the tokens that are cut."""
