"""Numbers as people read them."""

import math


def percent(share: float) -> str:
    """Return a share as pages print it, in whole percent; a dash where it is not known."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"
