"""Pairs for tests that are in memory already."""

from collections.abc import Sequence

from prob3r.scenes import Pair


class Held:
    """The pairs of a batch, to be asked for by number."""

    def __init__(self, pair: Pair):
        self.pair = pair

    def __len__(self) -> int:
        return len(self.pair)

    def batch(self, indices: Sequence[int]) -> Pair:
        return self.pair[list(indices)]
