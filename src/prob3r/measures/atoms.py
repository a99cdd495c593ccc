"""Scores of a coder's units on tests of geometry, scene by scene.

A test compares a unit's activations over the patches of a scene with the truth of these patches.
All scores lie in [-1, 1]; 0 means that the activations do not depend on the truth.

| test | truth of a patch | score |
|---|---|---|
| `floor` | its central point is on the floor of the room | twice the AUROC, less 1 |
| `edge` | the depth is discontinuous in it | twice the AUROC, less 1 |
| `covisible` | the other view sees its central point | twice the AUROC, less 1 |
| `depth` | the depth of its central point | rank correlation |
| `normal x`, `y`, `z` | the normal of its central point in the camera's frame | rank correlation |
| `instance` | the object that it shows | correlation of an object's mean activations in two views |
| `match` | its match in view 1 | correlation of the activations of matching patches |
| `strongest T` | that of T, one of the first seven | twice the AUROC of the truth of T, less 1 |

The first seven tests use all patches, so a unit that is seldom active scores near 0. `strongest T`
compares the patches at which the unit is most active, a share `STRONGEST` of a scene at most, with
all others: is T larger there? It is NaN for a scene in which the unit is active at fewer than
`FEWEST_STRONG` patches. `instance` uses the objects that view 1 and another view both show.

The control of a test within views uses the truth of another scene at the same positions in the
image. It shows what the position alone explains. The control of `instance` compares an object with
another object of the scene. The control of `match` compares a patch with another patch's match.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.geometry import central_pixels, normal_map, patchify, transform
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.view import View
from prob3r.scenes.views import Views

YES_OR_NO = ("floor", "edge", "covisible")
GRADED = ("depth", "normal x", "normal y", "normal z")
ACROSS = ("instance", "match")
WITHIN = (*YES_OR_NO, *GRADED)
STRONG = tuple(f"strongest {test}" for test in WITHIN)
TESTS = (*WITHIN, *ACROSS, *STRONG)

STRONGEST = 1 / 32
"""Share of a scene's patches. A mean atom is active at this share if 16 of 512 atoms are active."""

FEWEST_STRONG = 3

FLOOR = 0.05
"""A point up to this height above the ground of a room, in metres, is on the floor."""

EDGE = 0.1
"""A pixel is at an edge if the mean inverse depth of its two neighbours differs from its own by
more than this share."""

FEWEST = 3  # objects that two views of a scene must share
FEWEST_MATCHES = 8


class Truths(NamedTuple):
    """The truth of the patches of a batch.

    Attributes:
        values: The truth of each test for the patches of all views, view after view; NaN where it
            is not known.
        labels: The object that each patch of each view shows, 0 for none; None if not known.
        matches: For each view but the first, the patch of view 1 that matches each of its patches,
            -1 for none.
    """

    values: dict[str, Float[Tensor, "b t"]]
    labels: list[Int[Tensor, "b n"]] | None
    matches: list[Int[Tensor, "b n"]]


class Scores(NamedTuple):
    """The scores of units, scene by scene; NaN where a scene lacks what a test needs.

    Attributes:
        true: Against the truth.
        control: Against the control.
    """

    true: Float[Tensor, "b tests m"]
    control: Float[Tensor, "b tests m"]


def truths_of(views: Views, patch: int) -> Truths:
    """Return the truth of every patch of a batch, whose full truth must be known."""
    parts: list[dict[str, Tensor]] = []
    matches = []
    for number, view in enumerate(views.views, 1):
        pair = views.pair(1 if number > 1 else 2, number)
        found = pair.patch_matches(patch)
        if number > 1:
            matches.append(found.match.where(found.visible, -1))
        parts.append(_of_view(view, found.visible, patch))
    labels = [
        _centres(view.labels, patch).long() for view in views.views if view.labels is not None
    ]
    names = [name for name in (*YES_OR_NO, *GRADED) if all(name in part for part in parts)]
    values = {name: torch.cat([part[name] for part in parts], 1) for name in names}
    return Truths(values, labels if len(labels) == views.count else None, matches)


def _of_view(view: View, seen: Bool[Tensor, "b n"], patch: int) -> dict[str, Float[Tensor, "b n"]]:
    valid = _centres(view.known, patch)
    points = view.points
    normals, known = normal_map(points, view.known)
    found = {
        "edge": patchify(_edges(points[..., 2], view.known)[..., None].float(), patch)
        .flatten(2)
        .amax(-1),
        "covisible": seen.float(),
        "depth": _centres(points[..., 2], patch),
    }
    for axis, name in enumerate(GRADED[1:]):
        normal = normals[..., axis].where(known, torch.nan)
        found[name] = _centres(normal, patch)
    if view.labels is not None and view.cam_to_world is not None:
        height = transform(points, view.cam_to_world)[..., 2]
        on_floor = (height < FLOOR) & (view.labels == 0)
        found["floor"] = _centres(on_floor.float(), patch)
    return {name: values.where(valid, torch.nan) for name, values in found.items()}


def _edges(depth: Float[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Return the pixels at which the inverse depth, which is linear on a plane, is not linear."""
    inverse = (1 / depth).where(valid & (depth > 0), torch.nan)
    found = torch.zeros_like(valid)
    for axis in (1, 2):
        before, here, after = (
            inverse.narrow(axis, start, inverse.shape[axis] - 2) for start in (0, 1, 2)
        )
        bent = ((before + after) / (2 * here) - 1).abs() > EDGE
        found.narrow(axis, 1, bent.shape[axis]).logical_or_(bent)
    return found


def _centres(pixels: Tensor, patch: int) -> Tensor:
    """Return the value at the central pixel of each patch."""
    return central_pixels(pixels, patch).flatten(1)


def score(
    codes: Sequence[Float[Tensor, "b n m"]], truths: Truths, others: Int[Tensor, " b"]
) -> Scores:
    """Return the scores of all units on all tests.

    Args:
        codes: The activations of each view's patches.
        truths: The truth of the patches.
        others: For each scene the index of another scene, whose truth is the control; -1 for none.
            See `prob3r.scenes.shuffled.other_scenes`.
    """
    b, _, m = codes[0].shape
    joined = torch.cat(list(codes), 1)
    true = joined.new_full((b, len(TESTS), m), torch.nan)
    control = true.clone()
    for row in range(b):
        if truths.values:
            here = {name: values[row] for name, values in truths.values.items()}
            _fill(true[row], _within(joined[row], here))
            if (other := int(others[row])) >= 0:
                there = {name: values[other] for name, values in truths.values.items()}
                _fill(control[row], _within(joined[row], there))
        across = {name: _across(name, [c[row] for c in codes], truths, row) for name in ACROSS}
        _fill(true[row], {name: both[0] for name, both in across.items()})
        _fill(control[row], {name: both[1] for name, both in across.items()})
    return Scores(true, control)


def scores_of(codes: Sequence[Float[Tensor, "b n m"]], views: Views, patch: int) -> Scores:
    """Return the scores of all units over a batch with its full truth; see `score`."""
    return score(codes, truths_of(views, patch), other_scenes(views))


def mean_scores(scores: Float[Tensor, "b tests m"]) -> Float[Tensor, "tests m"]:
    """Return means over scenes, NaN where under half of them have a score."""
    known = (~scores.isnan()).float().mean(0)
    return scores.nanmean(0).where(known >= 0.5, torch.nan)


def _fill(rows: Float[Tensor, "tests m"], found: Mapping[str, Float[Tensor, " m"]]) -> None:
    for name, values in found.items():
        rows[TESTS.index(name)] = values


def _within(
    codes: Float[Tensor, "t m"], truths: Mapping[str, Float[Tensor, " t"]]
) -> dict[str, Float[Tensor, " m"]]:
    """Return the scores of the tests within views, over the patches of one scene."""
    known = ~truths["depth"].isnan()
    codes = codes[known]
    ranks = middle_ranks(codes)
    found = {}
    for name, values in truths.items():
        values = values[known]
        sure = ~values.isnan()
        truth = middle_ranks(values[sure, None])
        if name in YES_OR_NO:
            found[name] = _separation(ranks, values > 0)
        else:
            found[name] = correlation(ranks[sure], truth)
        found[f"strongest {name}"] = _of_strongest(codes[sure], truth)
    return found


def _of_strongest(codes: Float[Tensor, "t m"], truth: Float[Tensor, "t 1"]) -> Float[Tensor, " m"]:
    """Return the score of the truth of each unit's strongest patches against all others."""
    count = max(FEWEST_STRONG, round(STRONGEST * len(codes)))
    if len(codes) <= count:
        return codes.new_full((codes.shape[1],), torch.nan)
    largest = codes.topk(count, 0)
    chosen = torch.zeros_like(codes).scatter(0, largest.indices, (largest.values > 0).to(codes))
    active = chosen.sum(0)
    auroc = ((chosen * truth).sum(0) - active**2 / 2) / (active * (len(codes) - active))
    return (2 * auroc - 1).where(active >= FEWEST_STRONG, torch.nan)


def middle_ranks(values: Float[Tensor, "t m"]) -> Float[Tensor, "t m"]:
    """Return the rank of each value in its column: the smaller values and half of its equals."""
    columns = values.T.contiguous()
    ordered = columns.sort(-1).values
    less = torch.searchsorted(ordered, columns)
    not_more = torch.searchsorted(ordered, columns, right=True)
    return ((less + not_more).to(values) / 2).T


def _separation(ranks: Float[Tensor, "t m"], yes: Bool[Tensor, " t"]) -> Float[Tensor, " m"]:
    """Return twice the AUROC less 1; NaN if the truth is the same for all patches."""
    count, rest = int(yes.sum()), int((~yes).sum())
    if not count or not rest:
        return ranks.new_full((ranks.shape[1],), torch.nan)
    auroc = (ranks[yes].sum(0) - count**2 / 2) / (count * rest)
    return 2 * auroc - 1


def correlation(
    one: Float[Tensor, "t m"], other: Float[Tensor, "t k"], fewest: int = FEWEST
) -> Float[Tensor, " m"]:
    """Return the correlation of columns; 0 where one of them is constant, NaN for too few rows."""
    if len(one) < fewest:
        return one.new_full((one.shape[1],), torch.nan)
    centred = [t - t.mean(0) for t in (one, other)]
    norms = [t.norm(dim=0) for t in centred]
    product = (centred[0] * centred[1]).sum(0)
    size = norms[0] * norms[1]
    varies = size > 1e-9 * max(1.0, float(size.max()))
    return (product / size.where(varies, 1)).where(varies, 0)


def _across(
    name: str, codes: Sequence[Float[Tensor, "n m"]], truths: Truths, row: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the score and the control of a test across views, mean over views but the first."""
    found = []
    for place, further in enumerate(codes[1:]):
        if name == "match":
            match = truths.matches[place][row]
            seen = match >= 0
            one, other = further[seen], codes[0][match[seen]]
            found.append(_and_control(one, other, len(one) // 2, FEWEST_MATCHES))
        elif truths.labels is not None:
            labels = truths.labels[0][row], truths.labels[place + 1][row]
            shared = [k for k in labels[0].unique().tolist() if k > 0 and (labels[1] == k).any()]
            means = [
                torch.stack([c[shown == k].mean(0) for k in shared])
                for c, shown in zip((codes[0], further), labels, strict=True)
                if shared
            ]
            if shared:
                found.append(_and_control(means[0], means[1], 1, FEWEST))
    if not found:
        nothing = codes[0].new_full((codes[0].shape[1],), torch.nan)
        return nothing, nothing
    true, control = (torch.stack(parts).nanmean(0) for parts in zip(*found, strict=True))
    return true, control


def _and_control(
    one: Float[Tensor, "t m"], other: Float[Tensor, "t m"], shift: int, fewest: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the correlations of columns, and the same after the rows of `other` are shifted."""
    true = correlation(one, other, fewest)
    return true, correlation(one, other.roll(shift, 0), fewest) if len(one) else true
