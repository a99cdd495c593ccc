"""Sentences on the probability that the output of a pair is wrong, and on its calibration."""

from collections.abc import Iterator

from prob3r.measures.numbers import percent
from prob3r.reliability.judgement import Judgement, Reading
from prob3r.reliability.signals import CHECK, EVERY_SIGNAL
from prob3r.report.sentences import Sentence, Tone

# Thresholds that choose the words; the sentences also give the numbers.
LIKELY, UNLIKELY = 0.5, 0.1  # probabilities of a wrong output
TELLING = 0.2  # smallest change of the log odds by a signal that is named
NAMED = 3  # most signals that are named in each direction

ROOM = "rooms/"  # how the names of rendered pairs begin


def reliability(judgement: Judgement | None, pair: str) -> list[Sentence]:
    """Return sentences on the reliability of a pair; an empty list without a calibration.

    Args:
        judgement: The probability that the pair's rotation is wrong; None without a calibration.
        pair: The pair's name.
    """
    if judgement is None:
        return []
    return [*_chance(judgement), *_signals(judgement), *_held_out(judgement, pair)]


def _chance(judgement: Judgement) -> Iterator[Sentence]:
    probability = judgement.probability
    tone: Tone = (
        "warning" if probability >= LIKELY else "good" if probability < UNLIKELY else "plain"
    )
    usual = judgement.failed / judgement.pairs
    checked = any(EVERY_SIGNAL[r.signal].group == CHECK for r in judgement.readings)
    by = "what shows inside and the independent check" if checked else "what shows inside"
    yield Sentence(
        f"By {by}, view 2's rotation is off by more than {judgement.degrees:g}° with "
        f"a probability of {percent(probability)}; of the pairs that this was calibrated on, "
        f"{percent(usual)} were.",
        tone,
    )


def _signals(judgement: Judgement) -> Iterator[Sentence]:
    raising, lowering = (
        sorted(
            (r for r in judgement.readings if sign * r.log_odds > TELLING),
            key=lambda reading: -abs(reading.log_odds),
        )[:NAMED]
        for sign in (1, -1)
    )
    sides = [
        f"what {does} it: {_listed([_words(reading) for reading in found])}"
        for does, found in (("raises", raising), ("lowers", lowering))
        if found
    ]
    if sides:
        text = "; ".join(sides)
        yield Sentence(f"{text[0].upper()}{text[1:]}.")
    if beyond := [EVERY_SIGNAL[r.signal].words for r in judgement.readings if r.beyond]:
        yield Sentence(
            f"No pair of the calibration had such a value of {_listed(beyond)}: beyond what it "
            "saw, nothing is known.",
            "warning",
        )


def _held_out(judgement: Judgement, pair: str) -> Iterator[Sentence]:
    same, rooms = judgement.held_out, judgement.data.startswith("rooms:")
    about = f"from {100 * same.low:.0f} to {100 * same.high:.0f} %"
    text = f"Of {judgement.pairs} held-out pairs of {judgement.data}, none was given {about}."
    if same.pairs:
        text = (
            f"Of {judgement.pairs} held-out pairs of {judgement.data}, {same.pairs} were given "
            f"{about}, and {same.failed} of these ({percent(same.failed / same.pairs)}) were off "
            "by that much."
        )
    yield Sentence(
        f"{text} A wrong pair gets a higher probability than a right one in "
        f"{percent(judgement.auroc.value)} of cases; by the model's own confidence alone, in "
        f"{percent(judgement.confidence_auroc.value)}."
    )
    if rooms and not pair.startswith(ROOM):
        yield Sentence(
            "This was calibrated on rendered rooms, not on photographs: of a photograph, take the "
            "probability as a hint and not as a measurement.",
            "warning",
        )
    elif not rooms:
        yield Sentence(
            f"This was calibrated on {judgement.data}: of pairs unlike those, take the probability "
            "as a hint."
        )


def _words(reading: Reading) -> str:
    """Return a signal in words, with its value and its usual value."""
    signal = EVERY_SIGNAL[reading.signal]
    return f"{signal.words} ({signal.write(reading.value)}, usually {signal.write(reading.usual)})"


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
