"""Cuts of chosen tokens of the trunk, and the random patches that are their controls.

The tokens are special tokens, in every view that has them. The controls are patches of the same
view, drawn for each scene as in `prob3r.measures.tokens`: as many patches, or patches of the same
attention mass in total. The attention mass of a token is averaged over all attention sublayers of
the trunk that attend to its view, over their heads and over their queries.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.measures.tokens import random_order, with_controls
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.donated import Donated
from prob3r.runs.edits import (
    PATCHES,
    Edit,
    Knockout,
    Selection,
    Setting,
    TokenAblation,
    TokenMeans,
    Transplant,
    token_means,
)
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views

MEAN_SCENES = 64

MASK, ZERO, MEAN, NOISE, RESAMPLE, SWAP = "mask", "zero", "mean", "noise", "resample", "swap"

ChosenTokens = Sequence[Bool[Tensor, "b _n"]]
"""Which tokens are chosen, one mask for each view."""


class Cut(NamedTuple):
    """A cut: its tokens, its mode, and its block; -1 is all blocks."""

    tokens: str
    mode: str
    block: int = -1


class Sources(NamedTuple):
    """The sources of the values that replace tokens.

    Attributes:
        means: The means of tokens, for `mean` and `noise`.
        donated: The streams of another scene, for `resample` and `swap`.
    """

    means: TokenMeans
    donated: Donated


def special_tokens(model: Model, count: int) -> dict[str, list[int]]:
    """Return the names of the trunk's special tokens, and the views that have them."""
    found: dict[str, list[int]] = {}
    for view in trunk(model).streams(count):
        for name in trunk(model).layout(view).special:
            found.setdefault(name, []).append(view)
    return found


def means_of(model: Model, scenes: Scenes[Views], batch: int) -> TokenMeans:
    """Return the means of the trunk's tokens over a sample of the scenes."""
    few = sampled_batches(scenes, MEAN_SCENES, batch, next(model.parameters()).device)
    return token_means(model, few, f"{trunk(model).name}*")


def run_of(model: Model, views: Views) -> Trace:
    """Return a run that records the attention masses and the residual streams of the trunk."""
    stack = trunk(model)
    streams = stack.streams(views.count)
    masses = [str(site.read("mass")) for view in streams for site in stack.attention(view)]
    return trace(model, views, [*masses, *map(str, stack.sites(views.count))], output=False)


def donated_by(views: Views, run: Trace) -> Donated:
    """Return the residual streams of another scene of the batch."""
    streams = {site: run[site] for site in run if not Site.parse(site).reading}
    return Donated.of(views, streams)


def chosen_tokens(model: Model, views: Views, selection: Selection) -> ChosenTokens:
    """Return, for every view, the tokens that a selection chooses."""
    setting, name = Setting.of(model, views), trunk(model).name
    axes = [setting.queries(Site(name, view, None, "embed")) for view in range(1, views.count + 1)]
    masks = (axis.mask(selection.test).to(setting.device) for axis in axes)
    return [mask.expand(len(views), -1) for mask in masks]


def patches_against(
    model: Model, views: Views, run: Trace, chosen: ChosenTokens
) -> Mapping[str, ChosenTokens]:
    """Return the chosen tokens and their controls, by the names of `measures.tokens.CUTS`."""
    setting = Setting.of(model, views)
    patches = chosen_tokens(model, views, PATCHES)
    found: dict[str, list[Tensor]] = {}
    for number, (tokens, free) in enumerate(zip(chosen, patches, strict=True), 1):
        mass = _mass(setting, run, number)
        order = random_order(views, f"view {number}", tuple(mass.shape[1:]))
        for name, mask in with_controls(tokens, free, mass, order).items():
            found.setdefault(name, []).append(mask)
    return found


def _mass(setting: Setting, run: Trace, view: int) -> Float[Tensor, "b n"]:
    """Return the attention mass of the tokens of a view."""
    found = []
    for name in run:
        site = Site.parse(name)
        if site.reading == "mass":
            keys = setting.keys(site).split(torch.Tensor(run[name]).mean(1))
            if view in keys:
                found.append(keys[view])
    return torch.stack(found).mean(0)


def isolated(model: Model, tokens: ChosenTokens) -> list[Edit]:
    """Return edits with which no token attends to these tokens, and they attend to none."""
    stack, count = trunk(model), len(tokens)
    edits: list[Edit] = []
    for view, own in enumerate(tokens, 1):
        for kind in dict.fromkeys(site.sublayer for site in stack.attention(view)):
            site = Site(stack.name, view, None, kind)
            pattern = f"{site.stream}.*.{kind}"
            keys = torch.cat([tokens[other - 1] for other in site.key_views(count)], 1)
            if keys.any():
                edits.append(Knockout(pattern, keys=keys[:, None]))
            if own.any():
                edits.append(Knockout(pattern, queries=own[:, None]))
    return edits


def replaced(
    model: Model, tokens: ChosenTokens, mode: str, sources: Sources, views: Views
) -> list[Edit]:
    """Return the edits that replace tokens at every residual site of the trunk.

    The list is empty if the mode needs another scene and the batch has only one.
    """
    rows = sources.donated.rows if mode == RESAMPLE else list(range(len(views)))
    source: Mapping[str, Any] = {
        MEAN: sources.means,
        NOISE: sources.means,
        RESAMPLE: sources.donated.records,
    }
    seed = zlib.crc32(" ".join(views.names).encode())
    return [
        TokenAblation(
            f"{trunk(model).name}{view}.*",
            mode=mode,
            patches=mask[rows][:, None],
            source=source.get(mode),
            seed=seed,
            scenes=rows,
        )
        for view, mask in enumerate(tokens, 1)
        if rows and mask[rows].any()
    ]


def swapped(model: Model, tokens: ChosenTokens, block: int, donated: Donated) -> list[Edit]:
    """Return the edits that replace these tokens by those of another scene, in one block."""
    return [
        Transplant(
            f"{trunk(model).name}{view}.{block}.*",
            donated.records,
            patches=mask[donated.rows][:, None],
            scenes=donated.rows,
        )
        for view, mask in enumerate(tokens, 1)
        if donated.rows and mask[donated.rows].any()
    ]
