"""Edits: what can be changed while a model runs, each with a stated meaning."""

from prob3r.runs.edits.edit import Edit, Setting
from prob3r.runs.edits.editor import Editor
from prob3r.runs.edits.heads import Attention, HeadAblation, Knockout
from prob3r.runs.edits.means import Means, TokenMeans, head_means, token_means
from prob3r.runs.edits.selection import OWN_VIEW, PATCHES, Selection, token, view
from prob3r.runs.edits.streams import TOKEN_MODES, Recode, Skip, TokenAblation, Transplant

__all__ = [
    "OWN_VIEW",
    "PATCHES",
    "TOKEN_MODES",
    "Attention",
    "Edit",
    "Editor",
    "HeadAblation",
    "Knockout",
    "Means",
    "Recode",
    "Selection",
    "Setting",
    "Skip",
    "TokenAblation",
    "TokenMeans",
    "Transplant",
    "head_means",
    "token",
    "token_means",
    "view",
]
