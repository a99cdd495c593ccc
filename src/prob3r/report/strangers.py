"""Sentences on the view that most likely belongs to another scene, and on its probability."""

from collections.abc import Iterator, Sequence
from math import isfinite

from prob3r.reliability.strangers import Belonging, StrangerCalibration
from prob3r.report.reliability import LIKELY, ROOM, UNLIKELY
from prob3r.report.sentences import Sentence, Tone, in_percent

DOUBTFUL = 0.25  # probability from which on a view is called a possible stranger


def stranger_sentences(
    found: Sequence[Belonging], calibration: StrangerCalibration | None, name: str
) -> list[Sentence]:
    """Return sentences on the likeliest stranger; an empty list for two views.

    Args:
        found: How well each view except view 1 belongs to the scene.
        calibration: The calibration of the probabilities; None if there are no probabilities.
        name: The scene's name.
    """
    if not found:
        return []
    if calibration is None:
        return [_raw(found)]
    return [*_chance(found), *_worth(found, calibration, name)]


def likeliest(found: Sequence[Belonging]) -> Belonging:
    """Return the likeliest stranger: the highest probability, or else the least attention."""
    return max(found, key=lambda b: -b.attention if b.probability is None else b.probability)


def _chance(found: Sequence[Belonging]) -> Iterator[Sentence]:
    most = likeliest(found)
    assert most.probability is not None
    others = [b.probability for b in found if b is not most and b.probability is not None]
    likely = [b.view for b in found if (b.probability or 0) >= LIKELY]
    tone: Tone = "warning" if likely else "good" if most.probability < UNLIKELY else "plain"
    if likely:
        begin = f"View {most.view} is of another scene with a probability of"
    elif most.probability >= DOUBTFUL:
        begin = f"View {most.view} may be of another scene, with a probability of"
    else:
        begin = (
            f"No view stands out as one of another scene: the likeliest, view {most.view}, is one "
            "with a probability of"
        )
    rest = f"; of the other views, at most {in_percent(max(others))}" if others else ""
    yield Sentence(
        f"{begin} {in_percent(most.probability)}{rest}. View 1 is taken for one that belongs.",
        tone,
    )
    yield Sentence(_evidence(most))
    if beyond := [b.view for b in found if b.beyond]:
        yield Sentence(
            f"No view of the calibration had such signals as view {', '.join(map(str, beyond))}: "
            "beyond what it saw, nothing is known.",
            "warning",
        )


def _worth(
    found: Sequence[Belonging], calibration: StrangerCalibration, name: str
) -> Iterator[Sentence]:
    most = likeliest(found)
    bin_, c = most.held_out, calibration
    assert bin_ is not None
    about = f"from {100 * bin_.low:.0f} to {100 * bin_.high:.0f} %"
    many = f"{c.scenes} scenes of {c.views} views of {c.data}, half of them with a stranger"
    told = (
        f"{bin_.pairs} held-out views were given {about}, and {bin_.failed} of these were strangers"
        if bin_.pairs
        else f"no held-out view was given {about}"
    )
    yield Sentence(
        f"This is calibrated on {many}: {told}. A stranger gets a higher probability than a view "
        f"that belongs in {in_percent(c.auroc.value)} of cases."
    )
    if c.data.startswith("rooms:") and not name.startswith(ROOM):
        yield Sentence(
            "The strangers of the calibration were views of other rendered rooms: of photographs, "
            "take the probability as a hint and not as a measurement.",
            "warning",
        )


def _raw(found: Sequence[Belonging]) -> Sentence:
    least = likeliest(found)
    return Sentence(
        f"View {least.view} gets the least attention from the others. {_evidence(least)} How "
        "likely it is of another scene is not known: the scores are not calibrated for this run. "
        "`prob3r train strangers` calibrates those of a model."
    )


def _evidence(view: Belonging) -> str:
    words = (
        f"In the last block view {view.view} gets {view.attention:.2f} times the attention that "
        "the other views get in the median. The cosine of its patches with the nearest patches of "
        f"other views is {view.similarity:.2f}, against {view.usual_similarity:.2f}."
    )
    if not isfinite(view.fit):
        return f"{words} It shares no surface with them."
    return f"{words} Of what it shares with them, {in_percent(view.fit)} agrees."
