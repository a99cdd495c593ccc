"""The shuffled control: a model's output if view 1 shows nothing of what view 2 shows.

What the model then still gets right does not come from correspondences. `prob3r.scenes.shuffled`
describes where the other view 1 comes from.
"""

from collections import Counter

import pandas as pd

from prob3r.errors import Prob3rError

SHUFFLED = "shuffled"
"""The source of the control's rows in a table."""


def describe_controls(counts: Counter[str]) -> str:
    """Return in words where the other views 1 came from.

    Args:
        counts: How many pairs have which control, over all batches.
    """
    words = {
        "elsewhere": "view 1 of another scene",
        "unseen": "a frame that sees nothing of view 2",
    }
    found = [f"{of} for {counts[kind]} pairs" for kind, of in words.items() if counts[kind]]
    none = "none, since each frame sees some of view 2 or its scene is unknown"
    if not found:
        return none
    return ", ".join(found) + (f", none for {counts['none']} pairs" if counts["none"] else "")


def require_control(table: pd.DataFrame) -> None:
    """Raise Prob3rError if no pair of a study's table has a shuffled control."""
    if table[table.source == SHUFFLED].value.isna().all():
        raise Prob3rError(
            "No pair has a shuffled control, which this study's rule needs: in each batch every "
            "other view 1 sees some of view 2, or its scene is unknown; give pairs of several "
            "scenes, or of more distant frames."
        )
