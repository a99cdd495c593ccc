"""The protocol of all models: how a multi-view model describes itself, and what it returns.

This file knows no architecture. Traces, edits, sweeps, probes, studies and pages use only what is
defined here, in `prediction` and in `stacks`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.prediction import NO_POINTMAPS, Cameras, NoPointmaps, Prediction
from prob3r.models.sites import ATTENTION, BETWEEN_VIEWS, Site, Tap
from prob3r.models.stacks import Stack, TokenLayout

__all__ = [
    "NO_POINTMAPS",
    "Builds",
    "Cameras",
    "EncodesViews",
    "LensHead",
    "Model",
    "MultiViewModel",
    "NoPointmaps",
    "Prediction",
    "ReadsBlocks",
    "Shape",
    "Stack",
    "TokenLayout",
    "layout_of",
    "needs_pointmaps",
    "predicts_pointmaps",
    "stack_of",
    "trunk",
]

AnyModel = TypeVar("AnyModel", bound="Model")


@runtime_checkable
class Shape(Protocol):
    """The part of a model's configuration that tracing needs."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the model was made for, in pixels."""

    @property
    def patch(self) -> int:
        """Side of a square patch, in pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON; it is part of the fingerprint."""


@runtime_checkable
class Model(Protocol):
    """A model that predicts pointmaps from views, and calls a tap at each of its sites.

    prob3r's own models follow this protocol. `Adapter` makes third-party models follow it.
    """

    @property
    def config(self) -> Shape:
        """The model's configuration."""

    @property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks of blocks by name, in the order in which they run."""

    @property
    def most_views(self) -> int | None:
        """Largest number of views that the model takes, or None if it takes any number."""

    def __call__(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        """Return the prediction for a batch of scenes.

        Args:
            images: One batch `(b, 3, h, w)` a view, the reference first, colours in [-1, 1].
            tap: Called once at every site, to read or to edit.
        """

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order in which they fire."""

    def attention_sites(self, views: int = 2) -> list[str]:
        """Return the names of all attention sites, which end in `.probs`."""

    def to(self: AnyModel, device: str | torch.device) -> AnyModel:
        """Return the model, with its weights on a device."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights, all on one device."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""


Built = TypeVar("Built", bound="MultiViewModel")
_Built_co = TypeVar("_Built_co", bound="MultiViewModel", covariant=True)


@runtime_checkable
class Builds(Protocol[_Built_co]):
    """A configuration of one of prob3r's architectures, which tells the class of its models."""

    def build(self) -> _Built_co:
        """Return a model of this shape with random weights."""


@runtime_checkable
class EncodesViews(Protocol):
    """A model whose encoder sees one view at a time, so that its result can be cached.

    Attributes:
        encoder_cache: If set, it is called in place of `encoder_stream`.
    """

    encoder_cache: Callable[[Tensor], Any] | None

    def encoder_stream(self, images: Tensor, tap: Tap | None = None) -> Any:
        """Return the stream after the encoder's last block for one batch of images."""


@runtime_checkable
class ReadsBlocks(Protocol):
    """A model whose heads can be read at any block of its trunk.

    Attributes:
        early: One sentence on what the heads read if they are applied to an earlier block.
    """

    early: ClassVar[str]

    def at_blocks(
        self, blocks: Iterable[int], *images: Tensor, tap: Tap | None = None
    ) -> Iterator[Prediction]:
        """Yield the heads' predictions at each of some blocks of the trunk; the model runs once.

        The tap is called at the sites of the trunk once, and at those of the heads for each block.
        """

    def cameras_at_blocks(
        self, blocks: Iterable[int], *images: Tensor, tap: Tap | None = None
    ) -> Iterator[Cameras]:
        """Yield only the cameras of `at_blocks`, without running the other heads."""


class MultiViewModel(nn.Module):
    """Base class of prob3r's own models: their sites follow from the stacks that they declare."""

    architecture: ClassVar[str]
    config_type: ClassVar[type[Any]]
    most_views: int | None = None
    predicts_pointmaps: ClassVar[bool] = True
    config: Any

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks of blocks by name, in the order in which they run."""
        return {stack.name: stack for stack in self.declare()}

    def declare(self) -> Sequence[Stack]:
        """Return the stacks, in the order in which they run."""
        raise NotImplementedError

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order in which they fire."""
        return [str(site) for stack in self.stacks.values() for site in stack.sites(views)]

    def attention_sites(self, views: int = 2) -> list[str]:
        """Return the names of all attention sites, in the order in which they fire."""
        sites = (Site.parse(name) for name in self.sites(views))
        return [str(site.probs) for site in sites if site.sublayer in ATTENTION]

    def lens_head(self) -> "LensHead":
        """Return the linear head that a lens uses.

        Raises:
            Prob3rError: The model's heads are not linear.
        """
        raise Prob3rError(
            f"A {type(self).__name__} has no linear head, which a lens needs; use linear or mlp "
            "probes."
        )

    def reads(self, site: str, views: int = 2) -> list[str]:
        """Return the residual sites that a sublayer reads, its own stream's first.

        A rerun with an edit computes only the sublayers that depend, directly or indirectly, on
        what the edit changed. By default, cross-attention reads the other views' streams at the
        input of the block, and global attention reads the current streams of all views.
        """
        place = Site.parse(site)
        if place.block is None:
            names = list(self.stacks)
            number = names.index(place.stack)
            if not number:
                return []
            before = self.stacks[names[number - 1]]
            last = replace(place, stack=before.name, block=before.blocks, sublayer="")
            return [str(self.before(last))]
        own = self.before(place)
        if place.sublayer == "cross_attn":
            start = replace(place, sublayer=self.stacks[place.stack].sublayers[place.block][0])
            others = [self.before(start.of(view)) for view in place.key_views(views)]
        elif place.sublayer == "global_attn":
            keys = [view for view in place.key_views(views) if view != place.view]
            others = [self.before(place.of(view)) for view in keys]
        else:
            others = []
        return [str(site) for site in (own, *others)]

    def before(self, site: Site) -> Site:
        """Return the residual site before another one in the same stream."""
        assert site.block is not None  # nothing is before a stack's input
        sublayers = self.stacks[site.stack].sublayers
        here = sublayers[site.block] if site.block < len(sublayers) else ()
        place = here.index(site.sublayer) if here else 0
        if place:
            return replace(site, sublayer=here[place - 1])
        if site.block:
            return replace(site, block=site.block - 1, sublayer=sublayers[site.block - 1][-1])
        return replace(site, block=None, sublayer="embed")

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read: by default the last one of each view."""
        stack = list(self.stacks.values())[-1]
        end = Site(stack.name, 1, stack.blocks, "")
        return [str(self.before(end.of(view))) for view in stack.streams(views)]


class LensHead(NamedTuple):
    """A linear head for a lens: it decodes pointmaps, patch by patch, from the end of one stack.

    Attributes:
        stack: Name of the stack.
        norm: The norm before the heads.
        heads: One linear layer for each view, from the width to `4 * patch**2`: point and
            confidence of each pixel, channel by channel. The last layer is used for all further
            views.
    """

    stack: str
    norm: nn.LayerNorm
    heads: tuple[nn.Linear, ...]


def predicts_pointmaps(model: Model) -> bool:
    """Return whether a model predicts pointmaps; a model without `predicts_pointmaps` does."""
    return getattr(model, "predicts_pointmaps", True)


def needs_pointmaps(model: Model, what: str) -> None:
    """Raise Prob3rError if a model predicts no pointmaps; `what` in the message needs them."""
    if not predicts_pointmaps(model):
        raise Prob3rError(
            f"{what} needs pointmaps, and a {type(model).__name__} predicts none; take a model "
            "that does, or decode its sites with a probe bank."
        )


def stack_of(model: Model, site: str | Site) -> Stack:
    """Return the stack that a site belongs to.

    Raises:
        Prob3rError: The model has no such stack.
    """
    name = (Site.parse(site) if isinstance(site, str) else site).stack
    if name not in model.stacks:
        raise Prob3rError(
            f"'{site}' is in no stack of this model; it has {', '.join(model.stacks)}."
        )
    return model.stacks[name]


def trunk(model: Model) -> Stack:
    """Return the trunk: the first stack with attention between views.

    Raises:
        Prob3rError: No stack of the model has such attention.
    """
    for stack in model.stacks.values():
        if any(s in BETWEEN_VIEWS for sublayers in stack.sublayers for s in sublayers):
            return stack
    raise Prob3rError("No stack of this model has attention between views.")


def layout_of(model: Model, site: str | Site) -> TokenLayout:
    """Return the positions of special tokens in the stream that a site belongs to."""
    site = Site.parse(site) if isinstance(site, str) else site
    return stack_of(model, site).layout(site.view)
