"""Pairs of views: photographs and folders of them; procedural rooms are in `prob3r.data.rooms`."""

from prob3r.data.framing import Framing
from prob3r.data.pair import Pair, View, stack
from prob3r.data.photographs import PIXEL_LIMIT, Photograph, load_photograph

__all__ = ["PIXEL_LIMIT", "Framing", "Pair", "Photograph", "View", "load_photograph", "stack"]
