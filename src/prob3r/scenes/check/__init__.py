"""Check a data set: its contents, its faults, and whether its conventions are right."""

from prob3r.scenes.check.sheet import draw_sheet
from prob3r.scenes.check.survey import PairCheck, Survey, survey

__all__ = ["PairCheck", "Survey", "draw_sheet", "survey"]
