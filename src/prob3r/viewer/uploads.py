"""Photographs from a browser: limited in size, and stored under names that the server chooses."""

from pathlib import Path

import viser
from viser import _messages

from prob3r.errors import Prob3rError
from prob3r.viewer.experiment import MOST_VIEWS
from prob3r.viewer.sources import PhotographFiles

LIMIT = 40 * 2**20
"""Most bytes of one photograph."""
NAME_LENGTH = 60


class Uploads:
    """The photographs that a browser sends, one after the other, until they are opened.

    Args:
        folder: The folder in which they are stored.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.names: list[str] = []
        self._batch = 0

    def add(self, file: viser.UploadedFile) -> None:
        """Store a photograph as the next view.

        Raises:
            Prob3rError: It is empty or too large, or there are as many as the viewer shows.
        """
        if not 0 < len(file.content) <= LIMIT:
            raise Prob3rError(
                f"The photograph has {len(file.content)} bytes; give one of at most "
                f"{LIMIT // 2**20} MB."
            )
        if len(self.names) == MOST_VIEWS:
            raise Prob3rError(f"There are {MOST_VIEWS} photographs; open them, or start over.")
        view = len(self.names) + 1
        self._path(view).write_bytes(file.content)
        # The name is only shown; it holds no part of the browser's folders.
        name = Path(file.name.replace("\\", "/")).name[:NAME_LENGTH]
        self.names.append(name or f"view {view}")

    def take(self) -> PhotographFiles:
        """Return all photographs, and start a new set.

        Raises:
            Prob3rError: There are fewer than two.
        """
        count = len(self.names)
        if count < 2:
            raise Prob3rError(f"There are {count} photographs; choose at least two of one scene.")
        taken = PhotographFiles(
            tuple(self._path(view) for view in range(1, count + 1)), tuple(self.names)
        )
        self.clear()
        return taken

    def clear(self) -> None:
        """Forget all photographs; those that were taken stay as they are."""
        self.names, self._batch = [], self._batch + 1

    def _path(self, view: int) -> Path:
        return self.folder / f"{self._batch}-view{view}"


def limit(gui: viser.GuiApi, most: int = LIMIT) -> None:
    """Drop uploads that are too large.

    An upload is dropped if it announces more than `most` bytes, and all uploads are dropped if
    together they send twice as many. viser stores what a browser sends until an upload is complete,
    whatever its size, and has no setting for a limit. These handlers run after those of viser.
    """
    states = gui._current_file_upload_states

    def start(_: int, message: _messages.FileTransferStartUpload) -> None:
        if message.size_bytes > most:
            states.pop(message.transfer_uuid, None)

    def part(_: int, message: _messages.FileTransferPart) -> None:
        if sum(state["transferred_bytes"] for state in states.values()) > 2 * most:
            states.clear()

    gui._websock_interface.register_handler(_messages.FileTransferStartUpload, start)
    gui._websock_interface.register_handler(_messages.FileTransferPart, part)
