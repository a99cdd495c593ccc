"""Shared code of studies of cuts: effects of variants, losses, and the tokens that are cut."""
