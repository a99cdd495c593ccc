"""Where a scene comes from; it is read again for every model, because models frame differently."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from prob3r.models import Model
from prob3r.scenes import Views


@runtime_checkable
class ViewsSource(Protocol):
    """The views of a scene, which can be read for any model."""

    @property
    def python(self) -> str:
        """Python statements that read the views as `views`; they use the variable `model`."""

    def views(self, model: Model) -> Views:
        """Return the views, framed for this model; raise Prob3rError if they cannot be used."""


@dataclass(frozen=True)
class PhotographFiles:
    """Image files.

    Attributes:
        files: The files, view 1 first.
        names: Their names, if these are not their paths.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """Python statements that read the photographs."""
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
        """Python statements that read the folder."""
        return f"views = prob3r.Views.from_folder({str(self.path)!r}, model)"

    def views(self, model: Model) -> Views:
        """Return the views; see `Views.from_folder`."""
        return Views.from_folder(self.path, model)


@dataclass(frozen=True)
class Room:
    """A procedural room of the test split, whose truth is known.

    Attributes:
        number: Number of the room.
        count: Number of views.
    """

    number: int
    count: int = 2

    @property
    def python(self) -> str:
        """Python statements that make the room."""
        more = f", views={self.count}" if self.count != 2 else ""
        room = f'Rooms("test", model.config.image_size, compile=False{more})[{self.number}]'
        return f"from prob3r.rooms import Rooms\n\nviews = {room}"

    def views(self, model: Model) -> Views:
        """Return the room, rendered at the image size of this model."""
        from prob3r.rooms import Rooms  # imported here, because it loads the renderer

        size = model.config.image_size
        if self.count == 2:
            return Rooms("test", size, compile=False)[self.number]
        return Rooms("test", size, compile=False, views=self.count)[self.number]
