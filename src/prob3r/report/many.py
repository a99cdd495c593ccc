"""Sentences about a scene of many views: ranges over the views, and the views that stand out.

A scene of two or three views has sentences for each view (`sentences`). With more views that text
would be too long.
"""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite, isnan
from statistics import median

from prob3r.measures.measurements import Measurements
from prob3r.measures.reconstruction import LOW_CONFIDENCE, Final
from prob3r.measures.reference import FINAL
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.measures.views import disagreeing
from prob3r.report.sentences import (
    FEW_INLIERS,
    GOOD_ROTATION,
    LITTLE_OVERLAP,
    MUCH_UNSURE,
    NO_BASELINE,
    NO_CAMERA,
    ROUGH_ROTATION,
    SAME_IMAGE,
    SETTLED_DEGREES,
    WIDE_PROBE_GAP,
    Sentence,
    attention_words,
    best_head,
    effects,
    ending,
    in_degrees,
    in_percent,
    settled,
    signed_degrees,
)

MANY = 4
"""Number of views from which on the sentences describe the scene as a whole."""


def what_happened_to_many(m: Measurements) -> list[Sentence]:
    """Return sentences on what happens between the photographs and the output."""
    parts = (_cameras, _pose, _roles, _matching)
    return [sentence for part in parts for sentence in part(m)]


def trust_in_many(m: Measurements) -> list[Sentence]:
    """Return sentences on how far the numbers can be trusted."""
    parts = (_reference, _fit, _warnings, _probes)
    found = [sentence for part in parts for sentence in part(m)]
    if not any(sentence.tone == "warning" for sentence in found):
        text = "Nothing else in this scene's numbers gives cause for doubt."
        found.append(Sentence(text, "good"))
    return found


def views_words(m: Measurements, views: Sequence[int]) -> str:
    """Return some of the views after the first in words, such as `views 2, 5 and 7`."""
    if len(views) == len(m.finals):
        return "all views but the first"
    names = [str(view) for view in views]
    if len(names) == 1:
        return f"view {names[0]}"
    return f"views {', '.join(names[:-1])} and {names[-1]}"


def _cameras(m: Measurements) -> Iterator[Sentence]:
    found = [view for view, final in m.finals.items() if _has_camera(final)]
    if found:
        turns = sorted(m.finals[view].rotation for view in found)
        yield Sentence(
            f"In the reconstruction the cameras are turned by {in_degrees(turns[0])} to "
            f"{in_degrees(turns[-1])} against camera 1, {in_degrees(median(turns))} in the median."
        )
    if lost := [view for view in m.finals if view not in found]:
        yield Sentence(
            f"The final pointmap of {views_words(m, lost)} is not what any one camera could see.",
            "warning",
        )


def _pose(m: Measurements) -> Iterator[Sentence]:
    if len(m.steps) < 2:  # there are no probes
        return
    last, whence, where = ending(m, 2, "rotation_error")
    curves = {view: m.curves[view]["rotation_error"] for view in m.finals}
    ends = {view: curve[last] for view, curve in curves.items() if isfinite(curve[last])}
    if not ends:
        return
    starts = [curves[view][0] for view in ends if isfinite(curves[view][0])]
    worst = max(ends, key=lambda view: ends[view])
    begin = f"from {in_degrees(median(starts))} at {m.steps[0].words} " if starts else ""
    yield Sentence(
        f"In the median over the views, the rotation goes {begin}to "
        f"{in_degrees(median(ends.values()))} off {whence} {where}. View {worst} ends farthest "
        f"off, at {in_degrees(ends[worst])}."
    )
    steps = [settled(curves[view][:-1], SETTLED_DEGREES) for view in ends]
    known = sorted(step for step in steps if step is not None)
    if known:
        half, every = (m.steps[known[i]].words for i in (len(known) // 2, -1))
        sooner = "" if half == every else f", half of them from {half} on"
        yield Sentence(f"All rotations are settled from {every} on{sooner}.")


def _roles(m: Measurements) -> Iterator[Sentence]:
    found = [effects(m.curves[view]["rotation_error"], m.steps) for view in m.finals]
    kinds = sorted({kind for changes in found for kind in changes})
    changes = {kind: median([c.get(kind, 0.0) for c in found]) for kind in kinds}
    if any(changes.values()):
        words = [
            f"{SUBLAYER_WORDS[kind]} by {signed_degrees(changes[kind])}"
            for kind in sorted(changes, key=lambda kind: -abs(changes[kind]))
        ]
        yield Sentence(
            "Summed over the blocks, and in the median over the views, the rotation error is "
            f"moved by each kind of sublayer: {', '.join(words)}."
        )


def _matching(m: Measurements) -> Iterator[Sentence]:
    seen = sorted(final.overlap for final in m.finals.values())
    yield Sentence(
        "By the model's own final pointmaps, view 1 sees "
        f"{in_percent(seen[0])} to {in_percent(seen[-1])} of the patches of the other views too."
    )
    if best := best_head(m.heads):
        yield Sentence(
            f"The {attention_words(m)} that agrees most with the final geometry is {best.words}, "
            f"from view {best.view} to view 1: within one patch of it for "
            f"{in_percent(best.agreement)} of the patches that both views see, where random "
            f"attention would give {in_percent(m.final.chance)}."
        )


def _reference(m: Measurements) -> Iterator[Sentence]:
    if m.against[2]["rotation_error"] == FINAL:
        yield Sentence(
            "No truth is known for all of this scene. Curves against the final state show when "
            "the model makes up its mind, not whether it is right."
        )
        return
    errors = {view: m.curves[view]["rotation_error"][-1] for view in m.finals}
    known = {view: error for view, error in errors.items() if not isnan(error)}
    if known:
        middle = median(known.values())
        text = f"Against the truth, the final rotations are {in_degrees(middle)} off in the median"
        good, rough = middle <= GOOD_ROTATION, middle <= ROUGH_ROTATION
        yield Sentence(f"{text}.", "good" if good else "plain" if rough else "warning")
    if wrong := [view for view, error in known.items() if error > ROUGH_ROTATION]:
        yield Sentence(
            f"The rotation of {views_words(m, wrong)} is wrong by more than "
            f"{in_degrees(ROUGH_ROTATION)}.",
            "warning",
        )


def _fit(m: Measurements) -> Iterator[Sentence]:
    known = {v + 1: fit for v, fit in enumerate(m.relations.fit) if isfinite(fit)}
    if len(known) < 2:
        return
    least = min(known, key=lambda view: known[view])
    rest = [fit for view, fit in known.items() if view != least]
    poor = disagreeing(m.relations.fit) == least
    yield Sentence(
        f"View {least} fits the others least: {in_percent(known[least])} of what it shares with "
        f"them agrees, against {in_percent(min(rest))} to {in_percent(max(rest))} for the others"
        f"{'. It may not belong to this scene.' if poor else '.'}",
        "warning" if poor else "plain",
    )


_WARNINGS: tuple[tuple[str, Callable[[Final], bool]], ...] = (
    (
        "The image of {views} is almost the same as that of view 1: there is nothing to "
        "triangulate.",
        lambda final: final.image_difference < SAME_IMAGE,
    ),
    (
        "The camera of {views} stands almost where camera 1 does: the direction between them means "
        "little.",
        lambda final: (
            final.image_difference >= SAME_IMAGE
            and _has_camera(final)
            and final.baseline < NO_BASELINE
        ),
    ),
    (
        f"By the model's own geometry view 1 sees less than {in_percent(LITTLE_OVERLAP)} of "
        "{views}.",
        lambda final: final.overlap < LITTLE_OVERLAP,
    ),
    (
        f"One camera explains less than {in_percent(FEW_INLIERS)} of the final pointmap of "
        "{views}: the rest is bent.",
        lambda final: NO_CAMERA <= final.inliers < FEW_INLIERS,
    ),
    (
        f"More than {in_percent(MUCH_UNSURE)} of the pixels of {{views}} have a confidence below "
        f"{LOW_CONFIDENCE:g}, where 1 is the least.",
        lambda final: final.unsure[1] > MUCH_UNSURE,
    ),
)
"""Each warning, and the condition on a view for it."""


def _warnings(m: Measurements) -> Iterator[Sentence]:
    for text, concerns in _WARNINGS:
        if views := [view for view, final in m.finals.items() if concerns(final)]:
            yield Sentence(text.format(views=views_words(m, views)), "warning")


def _probes(m: Measurements) -> Iterator[Sentence]:
    if len(m.steps) < 2:
        return
    gap = median(final.probe_gap for final in m.finals.values())
    wide = not gap <= WIDE_PROBE_GAP
    yield Sentence(
        f"The last probe is {gap:.2f} of the mean distance from the model's own output, in the "
        "median over the views, which says how finely the probes can be read"
        f"{': the curves are rough.' if wide else '.'}",
        "warning" if wide else "plain",
    )


def _has_camera(final: Final) -> bool:
    return final.pose_found and final.inliers >= NO_CAMERA
