"""Where a pair comes from: read anew for every model, since each frames photographs its own way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from prob3r.models import Model
from prob3r.scenes import Pair


@runtime_checkable
class Source(Protocol):
    """A pair that can be read for any model."""

    @property
    def python(self) -> str:
        """The statements that read it as `pair`, where `model` stands for the model."""

    def pair(self, model: Model) -> Pair:
        """Return the pair as this model expects it; raise Prob3rError if it cannot be used."""


@dataclass(frozen=True)
class Photographs:
    """Two image files.

    Attributes:
        first, second: The files.
        names: What to call them, where that is not their path.
    """

    first: Path
    second: Path
    names: tuple[str, str] | None = None

    @property
    def python(self) -> str:
        """The statements that read it."""
        first, second = self.names or (str(self.first), str(self.second))
        return f"pair = prob3r.Pair.from_images([{first!r}, {second!r}], model)"

    def pair(self, model: Model) -> Pair:
        """Return the photographs; see `Pair.from_images`."""
        pair = Pair.from_images([self.first, self.second], model)
        if self.names is None:
            return pair
        first, second = (Path(name).stem for name in self.names)
        return Pair(pair.view1, pair.view2, (f"{first}, {second}",))


@dataclass(frozen=True)
class Folder:
    """A folder with a `pair.json`."""

    path: Path

    @property
    def python(self) -> str:
        """The statements that read it."""
        return f"pair = prob3r.Pair.from_folder({str(self.path)!r}, model)"

    def pair(self, model: Model) -> Pair:
        """Return the pair; see `Pair.from_folder`."""
        return Pair.from_folder(self.path, model)


@dataclass(frozen=True)
class Room:
    """A procedural room of the test split, whose truth is known."""

    number: int

    @property
    def python(self) -> str:
        """The statements that read it."""
        room = f'Rooms("test", model.config.image_size, compile=False)[{self.number}]'
        return f"from prob3r.rooms import Rooms\n\npair = {room}"

    def pair(self, model: Model) -> Pair:
        """Return the room as this model sees it."""
        from prob3r.rooms import Rooms  # here, since it brings a renderer that few need

        return Rooms("test", size=model.config.image_size, compile=False)[self.number]
