"""Where a scene comes from: read anew for every model, since each has a framing of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from prob3r.models import Model
from prob3r.scenes import Views


@runtime_checkable
class Source(Protocol):
    """The views of a scene, which can be read for any model."""

    @property
    def python(self) -> str:
        """The statements that read them as `views`, where `model` stands for the model."""

    def views(self, model: Model) -> Views:
        """Return the views as this model expects them; raise Prob3rError if they cannot be used."""


@dataclass(frozen=True)
class Photographs:
    """Image files.

    Attributes:
        files: The files, the reference first.
        names: What to call them, where that is not their path.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """The statements that read them."""
        names = ", ".join(repr(name) for name in self.names or map(str, self.files))
        return f"views = prob3r.Views.from_images([{names}], model)"

    def views(self, model: Model) -> Views:
        """Return the photographs; see `Views.from_images`."""
        views = Views.from_images(self.files, model)
        if not self.names:
            return views
        return views.named([", ".join(Path(name).stem for name in self.names)])


@dataclass(frozen=True)
class Folder:
    """A folder with a `pair.json`."""

    path: Path

    @property
    def python(self) -> str:
        """The statements that read it."""
        return f"views = prob3r.Views.from_folder({str(self.path)!r}, model)"

    def views(self, model: Model) -> Views:
        """Return the views; see `Views.from_folder`."""
        return Views.from_folder(self.path, model)


@dataclass(frozen=True)
class Room:
    """A procedural room of the test split, whose truth is known.

    Attributes:
        number: Which one.
        count: How many views to take.
    """

    number: int
    count: int = 2

    @property
    def python(self) -> str:
        """The statements that read it."""
        more = f", views={self.count}" if self.count != 2 else ""
        room = f'Rooms("test", model.config.image_size, compile=False{more})[{self.number}]'
        return f"from prob3r.rooms import Rooms\n\nviews = {room}"

    def views(self, model: Model) -> Views:
        """Return the room as this model sees it."""
        from prob3r.rooms import Rooms  # here, since it brings a renderer that few need

        size = model.config.image_size
        if self.count == 2:
            return Rooms("test", size, compile=False)[self.number]
        return Rooms("test", size, compile=False, views=self.count)[self.number]
