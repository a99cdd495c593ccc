"""Corrupt items: they are skipped, logged and counted; too many of them raise an error."""

import logging
from typing import Literal

from prob3r.errors import Prob3rError

logger = logging.getLogger(__name__)

LIMIT = 0.01
"""The share of corrupt items above which a run stops."""

Problem = Literal["missing file", "corrupt file", "bad camera", "bad depth"]


class CorruptError(Prob3rError):
    """An item of a data set cannot be used. Other items may be usable.

    Attributes:
        problem: The kind of fault.
    """

    def __init__(self, message: str, problem: Problem = "corrupt file"):
        super().__init__(message)
        self.problem: Problem = problem


class CorruptCount:
    """Counts the corrupt items of a run.

    Args:
        of: Number of items that the run reads.
    """

    def __init__(self, of: int):
        self.of = of
        self.count = 0

    def add(self, item: CorruptError) -> None:
        """Name a corrupt item in the log and count it.

        Raises:
            Prob3rError: More than 1 % of the run's items are now corrupt.
        """
        self.count += 1
        logger.warning("Skipped: %s", item)
        if self.count > LIMIT * self.of:
            raise Prob3rError(
                f"{self.count} of {self.of} items are corrupt, and a run stops at more than "
                f"{LIMIT:.0%}; `prob3r data check` lists them all, and the last was: {item}"
            ) from item
