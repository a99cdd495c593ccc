"""Edits: what can be changed while a model runs, each with a stated meaning."""

from prob3r.runs.edits.edit import Edit, Setting
from prob3r.runs.edits.editor import Editor
from prob3r.runs.edits.heads import Attention, HeadAblation, Knockout
from prob3r.runs.edits.means import Means, head_means
from prob3r.runs.edits.streams import Patch, Skip

__all__ = [
    "Attention",
    "Edit",
    "Editor",
    "HeadAblation",
    "Knockout",
    "Means",
    "Patch",
    "Setting",
    "Skip",
    "head_means",
]
