"""Selections of tokens by view and by name, for edits."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool
from torch import Tensor

from prob3r.models.protocol import TokenLayout

Test = Callable[[int, str, int], bool]
"""A function of a token's view, its name (empty for a patch) and the site's view."""


@dataclass(frozen=True)
class TokenAxis:
    """The tokens along one axis of a stream or of an attention map, view after view.

    Attributes:
        own: The view of the site.
        parts: The number, the count of patches and the layout of each view on the axis.
    """

    own: int
    parts: tuple[tuple[int, int, TokenLayout], ...]

    def __len__(self) -> int:
        return sum(patches + len(layout.special) for _, patches, layout in self.parts)

    @property
    def patches(self) -> list[slice]:
        """The slices of each view's patches on the axis, in the order of the views."""
        spans, start = [], 0
        for _, patches, layout in self.parts:
            first = start + len(layout.before)
            spans.append(slice(first, first + patches))
            start = first + patches + len(layout.after)
        return spans

    def split(self, tensor: Tensor) -> dict[int, Tensor]:
        """Return the parts of a tensor's last axis, one for each view on this axis."""
        sizes = [patches + len(layout.special) for _, patches, layout in self.parts]
        views = [view for view, _, _ in self.parts]
        return dict(zip(views, tensor.split(sizes, -1), strict=True))

    def mask(self, test: Test) -> Bool[Tensor, " n"]:
        """Return the mask of the tokens that a test selects."""
        chosen: list[bool] = []
        for view, patches, layout in self.parts:
            chosen += [test(view, name, self.own) for name in layout.before]
            chosen += [test(view, "", self.own)] * patches
            chosen += [test(view, name, self.own) for name in layout.after]
        return torch.tensor(chosen)


@dataclass(frozen=True)
class Selection:
    """A choice of tokens for any number of views and patches.

    Selections combine with `&`, `|` and `~`: `view(1) & ~token("camera")`.
    """

    test: Test

    def __and__(self, other: "Selection") -> "Selection":
        return Selection(lambda *about: self.test(*about) and other.test(*about))

    def __or__(self, other: "Selection") -> "Selection":
        return Selection(lambda *about: self.test(*about) or other.test(*about))

    def __invert__(self) -> "Selection":
        return Selection(lambda *about: not self.test(*about))


def view(number: int) -> Selection:
    """Return the selection of all tokens of a view."""
    return Selection(lambda view, name, own: view == number)


def token(pattern: str) -> Selection:
    """Return the selection of special tokens by name, such as `camera` or `register*`."""
    return Selection(lambda view, name, own: bool(name) and fnmatchcase(name, pattern))


PATCHES = Selection(lambda view, name, own: not name)
"""All patches, and no special token."""

OWN_VIEW = Selection(lambda view, name, own: view == own)
"""All tokens of the view that a site belongs to."""
