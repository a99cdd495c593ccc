"""Sentences on the independent check: how the output agrees with matches made without the model."""

from collections.abc import Iterator, Sequence
from statistics import median

from prob3r.reliability.check import Check
from prob3r.report.many import MANY
from prob3r.report.sentences import GOOD_ROTATION, ROUGH_ROTATION, Sentence, Tone

# Thresholds on the share of matches that agree. They choose the words; the numbers are also given.
MOST, FEW = 0.7, 0.3  # shares of the matches


def check_sentences(checks: Sequence[Check], calibrated: bool) -> list[Sentence]:
    """Return sentences on the independent check; an empty list if no check was made.

    Args:
        checks: One check for each view except view 1.
        calibrated: Whether a calibrated probability is reported as well.
    """
    if len(checks) < MANY - 1:
        found = [sentence for check in checks for sentence in _sentences(check)]
    else:
        found = list(_of_many(checks))
    if checks and not calibrated:
        found.append(
            Sentence(
                "There is no calibration for this output, so this check is the only evidence; it "
                "gives no probability."
            )
        )
    return found


def _sentences(check: Check) -> Iterator[Sentence]:
    found = (
        f"An independent check ({check.matcher}), which knows nothing of the model, found "
        f"{check.matches or 'no'} match{'' if check.matches == 1 else 'es'} between the "
        f"photographs of views 1 and {check.view}"
    )
    if not check.pose_found:
        yield Sentence(
            f"{found}, too few that agree on a pose: it neither supports the output nor speaks "
            "against it."
        )
        return
    share = check.agreeing / check.matches
    yield Sentence(
        f"{found}. The model's pointmaps put {check.agreeing} of them ({100 * share:.0f} %) within "
        f"{check.near:.1f} pixels of each other; the median is {_pixels(check.distance)}.",
        _tone(share >= MOST, share < FEW),
    )
    pose = f"{check.inliers} of these matches agree on one pose of camera {check.view}"
    if not check.intrinsics_known:
        pose += ", taken with the focal length of the model's output"
    if not check.differs:
        yield Sentence(f"{pose}; the output has none to compare with it.", "warning")
        return
    yield Sentence(
        f"{pose}. The output's rotation differs from it by {check.rotation:.1f}°, and its "
        f"direction to the camera by {check.direction:.1f}°.",
        _tone(check.rotation <= GOOD_ROTATION, check.rotation > ROUGH_ROTATION),
    )


def _of_many(checks: Sequence[Check]) -> Iterator[Sentence]:
    """Yield sentences on a scene of many views: sums over the views, and the worst view."""
    known = [check for check in checks if check.differs]
    matches, agreeing = (sum(getattr(c, name) for c in checks) for name in ("matches", "agreeing"))
    share = agreeing / matches if matches else 0.0
    yield Sentence(
        f"An independent check ({checks[0].matcher}), which knows nothing of the model, looked for "
        f"matches between the photographs of view 1 and of each other view, and found {matches}. "
        f"The model's pointmaps put {agreeing} of them ({100 * share:.0f} %) within "
        f"{checks[0].near:.1f} pixels of each other.",
        _tone(share >= MOST, bool(matches) and share < FEW),
    )
    if not known:
        yield Sentence("For no view do enough matches agree on a pose that could be compared.")
        return
    worst = max(known, key=lambda check: check.rotation)
    typical = median(check.rotation for check in known)
    yield Sentence(
        f"For {len(known)} of {len(checks)} views enough matches agree on a pose: the output's "
        f"rotation differs from it by {typical:.1f}° in the median, and most for view "
        f"{worst.view}, by {worst.rotation:.1f}°.",
        _tone(worst.rotation <= GOOD_ROTATION, worst.rotation > ROUGH_ROTATION),
    )


def _tone(good: bool, bad: bool) -> Tone:
    return "good" if good else "warning" if bad else "plain"


def _pixels(distance: float) -> str:
    return f"{distance:.1f} pixels" if distance < 1000 else "far beyond the image"
