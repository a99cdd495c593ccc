"""Scenes that are read from disk, one by one: pairs, or scenes of more views."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import fields
from typing import Generic

from typing_extensions import TypeVar

from prob3r.errors import Prob3rError
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Views, stack

Seen = TypeVar("Seen", bound=Views, default=Pair)


class Items(ABC, Generic[Seen]):
    """Pairs that are read one by one. They may differ in size and in their known ground truth.

    `Items[Views]` are scenes of any number of views.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def read(self, index: int) -> Seen:
        """Read one pair, as a batch of one.

        Raises:
            CorruptError: It cannot be used.
        """

    def __getitem__(self, index: int) -> Seen:
        """Return one pair, as a batch of one; raise CorruptError if it cannot be used."""
        return self.read(range(len(self))[index])

    def batch(self, indices: Sequence[int]) -> Seen:
        """Return some of the pairs as one batch.

        Raises:
            CorruptError: One of them cannot be used.
            Prob3rError: They differ in size or in their known ground truth.
        """
        pairs = [self[index] for index in indices]
        if len({kind(pair) for pair in pairs}) > 1:
            raise Prob3rError(
                f"{', '.join(name for pair in pairs for name in pair.names)} differ in size or in "
                "what is known of them; `prob3r.scenes.source.batches` sorts such pairs."
            )
        return stack(pairs)


def kind(scene: Views) -> Hashable:
    """Return the image sizes and the kinds of known truth, which are equal within a batch."""
    return tuple(_kind(view) for view in scene.views)


def _kind(view: View) -> Hashable:
    return view.size, *(field.name for field in fields(view) if getattr(view, field.name) is None)
