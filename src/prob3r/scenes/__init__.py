"""Views and pairs of views from photographs and data sets; `prob3r.rooms` has rendered ones."""

from prob3r.scenes.framing import Framing
from prob3r.scenes.photographs import PIXEL_LIMIT, Photograph, load_photograph
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Views, stack

__all__ = [
    "PIXEL_LIMIT",
    "Framing",
    "Pair",
    "Photograph",
    "View",
    "Views",
    "load_photograph",
    "stack",
]
