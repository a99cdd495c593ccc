"""Sentences about the views of one scene, each computed from its numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, isfinite, isnan
from typing import Literal

import torch

from prob3r.measures import curves
from prob3r.measures.attention import HeadStatistics
from prob3r.measures.measurements import Measurements
from prob3r.measures.reconstruction import LOW_CONFIDENCE
from prob3r.measures.reference import FINAL
from prob3r.measures.steps import SUBLAYER_WORDS, Step
from prob3r.models.sites import BETWEEN_VIEWS

# Thresholds that choose the words; the sentences also give the numbers.
SETTLED_DEGREES = 2.0  # smaller differences of a rotation do not count
HARDLY = 0.8  # an error that ends above this share of its first value hardly improves
LATE = 0.75  # share of the sites
GOOD_ROTATION, ROUGH_ROTATION = 5.0, 15.0  # degrees
SAME_IMAGE = 0.01  # share of the range of colours
NO_BASELINE = 0.02  # share of the mean depth
NO_CAMERA = 0.2  # share of the view's pixels
LITTLE_OVERLAP = 0.15  # share of the view's patches
FEW_INLIERS = 0.5  # share of the view's pixels
FEW_CYCLES = 0.3  # share of the view's patches
MUCH_UNSURE = 0.5  # share of a view's pixels
WIDE_PROBE_GAP = 0.15  # share of the mean distance to camera 1
NARROWEST_VIEW, WIDEST_VIEW = 20.0, 110.0  # degrees

Tone = Literal["plain", "good", "warning"]


@dataclass(frozen=True)
class Sentence:
    """A sentence, and whether it reassures or warns."""

    text: str
    tone: Tone = "plain"


def what_happened(m: Measurements) -> list[Sentence]:
    """Return sentences on what happens between the photographs and the output, view by view."""
    parts = (_cameras, _pose, _shape, _roles, _matching, _switched_off)
    return [sentence for view in m.finals for part in parts for sentence in part(m, view)]


def trust(m: Measurements) -> list[Sentence]:
    """Return sentences on how far the numbers can be trusted."""
    parts = (_reference, _input, _confidence, _consistency, _probes)
    found = [sentence for view in m.finals for part in parts for sentence in part(m, view)]
    found = list(dict.fromkeys(found))  # a sentence about view 1 appears only once
    if not any(sentence.tone == "warning" for sentence in found):
        found.append(
            Sentence(
                f"Nothing else in this {scene_words(m)}'s numbers gives cause for doubt.", "good"
            )
        )
    return found


def settled(curve: list[float], least: float) -> int | None:
    """Return the first step from which on a curve is settled; None if its last value is not finite.

    Args:
        curve: One value for each step; the last is its final value.
        least: Smaller differences from the last value do not count.
    """
    if not curve or not isfinite(curve[-1]):
        return None
    values = torch.tensor(curve).nan_to_num(torch.inf)
    return int(curves.settled(values, least))


def effects(curve: list[float], steps: list[Step]) -> dict[str, float]:
    """Return the change of a curve across each kind of sublayer, summed over the blocks."""
    changes: dict[str, float] = {}
    for before, after, step in zip(curve, curve[1:], steps[1:], strict=False):
        if step.sublayer != "output" and isfinite(after - before):
            changes[step.sublayer] = changes.get(step.sublayer, 0.0) + after - before
    return changes


def _cameras(m: Measurements, view: int) -> Iterator[Sentence]:
    final = m.finals[view]
    if final.pose_found and final.inliers >= NO_CAMERA:
        yield Sentence(
            f"In the reconstruction camera {view} is turned by {in_degrees(final.rotation)} "
            f"against camera 1 and stands {in_percent(final.baseline)} of the mean depth away "
            "from it."
        )
    else:
        yield Sentence(
            f"View {view}'s final pointmap is not what any one camera could see: the best that was "
            f"found explains {in_percent(final.inliers)} of it.",
            "warning",
        )


def _pose(m: Measurements, view: int) -> Iterator[Sentence]:
    curve = m.curves[view]["rotation_error"]
    last, whence, where = ending(m, view, "rotation_error")
    start, end = curve[0], curve[last]
    step = settled(curve[:-1], SETTLED_DEGREES)
    if step is None or not isfinite(end):
        return
    way = f"ends {in_degrees(end)} off {whence} {where}"
    if isfinite(start):
        way = f"goes from {in_degrees(start)} off {whence} at {m.steps[0].words} to "
        way += f"{in_degrees(end)} {where}"
    if end > HARDLY * start and start > SETTLED_DEGREES:
        way += ": it hardly improves."
    elif step == 0:
        way += ": it is in place from the start."
    else:
        way += f", and is settled from {m.steps[step].words} on "
        way += f"(site {step + 1} of {len(m.steps) - 1})."
    yield Sentence(f"View {view}'s rotation {way}")


def _shape(m: Measurements, view: int) -> Iterator[Sentence]:
    if len(m.steps) < 2:
        return
    last, _, where = ending(m, view, "shape_error")
    shape, scale = (m.curves[view][f"{kind}_error"] for kind in ("shape", "scale"))
    if not all(isfinite(curve[i]) for curve in (shape, scale) for i in (0, last)):
        return
    half = (shape[0] + shape[last]) / 2
    above = [i for i, value in enumerate(shape[:-1]) if not value <= half]
    there = above[-1] + 1 if above else 0
    by = ""
    if shape[last] < HARDLY * shape[0] and there < len(m.steps) - 1:
        by = f", half of the way by {m.steps[there].words}"
    yield Sentence(
        f"View {view}'s shape, after the similarity (Sim(3)) that fits it best, is off by "
        f"{shape[0]:.2f} of the mean distance at {m.steps[0].words} and by {shape[last]:.2f} "
        f"{where}{by}; its scale by {exp(scale[0]):.2f} times and {exp(scale[last]):.2f} times."
    )


def ending(m: Measurements, view: int, metric: str) -> tuple[int, str, str]:
    """Return the step of a curve's end, with words for its reference and for that step.

    Against the final state the end is the last site, because the output has no error against
    itself.
    """
    if m.against[view][metric] == FINAL:
        return len(m.steps) - 2, "the final state", "at the last site"
    return len(m.steps) - 1, "the truth", "in the output"


def _roles(m: Measurements, view: int) -> Iterator[Sentence]:
    for metric, what, show in (
        ("rotation_error", "rotation error", signed_degrees),
        ("pointmap_error", "pointmap error", _signed),
    ):
        curve = m.curves[view][metric]
        changes = effects(curve, m.steps)
        if not any(changes.values()):
            continue
        first, *others = sorted(changes, key=lambda kind: -abs(changes[kind]))
        rest = " and ".join(f"{SUBLAYER_WORDS[k]} by {show(changes[k])}" for k in others)
        drops = [
            (after - before, step)
            for before, after, step in zip(curve, curve[1:], m.steps[1:], strict=False)
            if isfinite(after - before) and step.sublayer != "output"
        ]
        drop, step = min(drops, key=lambda pair: pair[0])
        largest = f"; the largest step down is {step.words} ({show(drop)})" if drop < 0 else ""
        yield Sentence(
            f"Summed over the blocks, {SUBLAYER_WORDS[first]} moves view {view}'s {what} most, by "
            f"{show(changes[first])}{f', {rest}' if rest else ''}{largest}."
        )


def _matching(m: Measurements, view: int) -> Iterator[Sentence]:
    final = m.finals[view]
    true = isfinite(final.true_overlap)
    share = final.true_overlap if true else final.overlap
    whose = "In truth" if true else "By the model's own final pointmaps"
    yield Sentence(f"{whose}, view 1 sees {in_percent(share)} of view {view}'s patches too.")
    if best := best_head([head for head in m.heads if head.view == view]):
        extra = ""
        if isfinite(best.true_matches):
            extra = (
                f" It is within one patch of the true match for {in_percent(best.true_matches)}."
            )
        yield Sentence(
            f"The {attention_words(m)}{_of(m, view)} that agrees most with the final geometry is "
            f"{best.words}: within one patch of it for {in_percent(best.agreement)} of the patches "
            f"that both views see, where random attention would give "
            f"{in_percent(final.chance)}.{extra}"
        )


def _switched_off(m: Measurements, view: int) -> Iterator[Sentence]:
    known = [h for h in m.heads if h.view == view and isfinite(h.rotation_effect)]
    if not known:
        return
    pose = max(known, key=lambda head: abs(head.rotation_effect))
    shape = max(known, key=lambda head: abs(head.shape_effect))
    yield Sentence(
        f"Of the {len(known)} heads of view {view}'s {attention_words(m)}, switched off one at a "
        f"time, {pose.words} changes the rotation error most "
        f"({signed_degrees(pose.rotation_effect)}) "
        f"and {shape.words} the shape error ({_signed(shape.shape_effect)})."
    )


def best_head(heads: list[HeadStatistics]) -> HeadStatistics | None:
    """Return the head that agrees most with the final geometry; None if no agreement is known."""
    known = [head for head in heads if isfinite(head.agreement)]
    return max(known, key=lambda head: head.agreement, default=None)


def _reference(m: Measurements, view: int) -> Iterator[Sentence]:
    kinds = {m.against[view][metric] for metric in ("rotation_error", "shape_error")}
    if FINAL in kinds and len(m.steps) > 1:
        part = " of scale and shape" if len(kinds) > 1 else ""
        yield Sentence(
            f"No truth is known for all of this {scene_words(m)}. Curves{part} against the final "
            "state show when the model makes up its mind, not whether it is right."
        )
    if m.against[view]["rotation_error"] == FINAL:
        return
    rotation, direction = (
        m.curves[view][f"{kind}_error"][-1] for kind in ("rotation", "translation")
    )
    if isnan(rotation):
        yield Sentence(
            f"The final pose{_of(m, view)} can't be compared with the truth: none was found.",
            "warning",
        )
        return
    text = f"Against the truth, the final rotation of view {view} is {in_degrees(rotation)} off"
    if isfinite(direction):
        text += f" and the direction to camera {view} {in_degrees(direction)}"
    if rotation <= GOOD_ROTATION:
        yield Sentence(f"{text}: a good pose.", "good")
    elif rotation <= ROUGH_ROTATION:
        yield Sentence(f"{text}: a rough pose.")
    else:
        yield Sentence(f"{text}: a wrong pose, so these numbers describe a failure.", "warning")


def _input(m: Measurements, view: int) -> Iterator[Sentence]:
    final = m.finals[view]
    if final.image_difference < SAME_IMAGE:
        yield Sentence(
            f"The images of views 1 and {view} are almost the same "
            f"({in_percent(final.image_difference, 1)} apart in colour): there is nothing to "
            "triangulate, and all depth is a guess from one view.",
            "warning",
        )
    elif final.inliers >= NO_CAMERA and final.baseline < NO_BASELINE:
        yield Sentence(
            f"Cameras 1 and {view} stand almost in one place, {in_percent(final.baseline, 1)} of "
            "the mean depth apart: the direction between them means little.",
            "warning",
        )
    if final.overlap < LITTLE_OVERLAP:
        yield Sentence(
            f"By the model's own geometry view 1 sees only {in_percent(final.overlap)} of view "
            f"{view}'s patches: most of view {view} rests on what the model expects, not on "
            "matches.",
            "warning",
        )


def _confidence(m: Measurements, view: int) -> Iterator[Sentence]:
    one, two = m.finals[view].confidence
    unsure = max(m.finals[view].unsure)
    text = f"The model's median confidence is {one:.1f} in view 1 and {two:.1f} in view {view}"
    if unsure > MUCH_UNSURE:
        yield Sentence(
            f"{text}, where 1 is the lowest value; {in_percent(unsure)} of the pixels of a "
            f"view are below {LOW_CONFIDENCE:g}.",
            "warning",
        )
    else:
        yield Sentence(f"{text}, where 1 is the lowest value.")


def _consistency(m: Measurements, view: int) -> Iterator[Sentence]:
    final = m.finals[view]
    if final.inliers >= NO_CAMERA:
        few = final.inliers < FEW_INLIERS
        yield Sentence(
            f"One camera explains {in_percent(final.inliers)} of view {view}'s final pointmap to "
            f"within 3 pixels{': the rest is bent.' if few else '.'}",
            "warning" if few else "plain",
        )
    if isnan(final.field_of_view):
        yield Sentence("View 1's pointmap lies behind its own camera.", "warning")
    elif final.field_of_view <= 0:
        text = "No lens shows view 1's pointmap: its focal length is negative."
        yield Sentence(text, "warning")
    elif not NARROWEST_VIEW <= final.field_of_view <= WIDEST_VIEW:
        yield Sentence(
            f"View 1's pointmap is that of a camera with a field of view of "
            f"{in_degrees(final.field_of_view)}, which few have.",
            "warning",
        )
    cycles = max((h.cycle_consistency for h in m.heads if h.view == view), default=0.0)
    if cycles < FEW_CYCLES:
        yield Sentence(
            f"Attention rarely finds its way back: from view {view} to view 1 and back, at best "
            f"{in_percent(cycles)} of the patches return to within one patch of where they "
            "started.",
            "warning",
        )
    step = settled(m.curves[view]["rotation_error"][:-1], SETTLED_DEGREES)
    if step is not None and step >= LATE * (len(m.steps) - 1):
        yield Sentence(
            f"The pose{_of(m, view)} still moves at {m.steps[step].words}, late in the depth: the "
            f"model may not be done with this {scene_words(m)}.",
            "warning",
        )


def _probes(m: Measurements, view: int) -> Iterator[Sentence]:
    if len(m.steps) < 2:
        return
    gap = m.finals[view].probe_gap
    text = (
        f"The last probe's view {view} is {gap:.2f} of the mean distance from the model's own "
        "output, which says how finely the probes can be read"
    )
    wide = not gap <= WIDE_PROBE_GAP
    yield Sentence(
        f"{text}{': the curves are rough.' if wide else '.'}", "warning" if wide else "plain"
    )


def scene_words(m: Measurements) -> str:
    """Return the word for the input: `pair`, or `scene` for more than two views."""
    return "pair" if m.views == 2 else "scene"


def _of(m: Measurements, view: int) -> str:
    """Return ` of view N`; empty for a pair, where only view 2 can be meant."""
    return "" if m.views == 2 else f" of view {view}"


def attention_words(m: Measurements) -> str:
    """Return the name of the model's attention between views, such as `cross-attention`."""
    kinds = [step.sublayer for step in m.steps if step.sublayer in BETWEEN_VIEWS]
    return SUBLAYER_WORDS[kinds[0]] if kinds else "attention between views"


def in_degrees(value: float) -> str:
    """Return an angle in degrees as text."""
    return f"{value:.1f}°" if abs(value) < 10 else f"{value:.0f}°"


def signed_degrees(value: float) -> str:
    """Return a difference of angles in degrees as text, with its sign."""
    return f"{value:+.1f}°".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def in_percent(share: float, digits: int = 0) -> str:
    """Return a share as text in percent."""
    return f"{100 * share:.{digits}f} %"
