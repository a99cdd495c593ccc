"""Photographs from a browser: bounded in size, and never under a name that the browser chose."""

from pathlib import Path

import viser
from viser import _messages

from prob3r.errors import Prob3rError
from prob3r.viewer.sources import Photographs

LIMIT = 40 * 2**20
"""Bytes of one photograph."""
NAME_LENGTH = 60


class Uploads:
    """The two photographs that a browser sends, until both are there.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.names: dict[int, str] = {}

    def add(self, view: int, file: viser.UploadedFile) -> Photographs | None:
        """Keep a photograph, and return both once there are two.

        Raises:
            Prob3rError: It is empty or too large.
        """
        if not 0 < len(file.content) <= LIMIT:
            raise Prob3rError(
                f"The photograph has {len(file.content)} bytes; give one of at most "
                f"{LIMIT // 2**20} MB."
            )
        self._path(view).write_bytes(file.content)
        # A name is for reading only, and says no more of the browser's folders than it must.
        self.names[view] = Path(file.name.replace("\\", "/")).name[:NAME_LENGTH] or f"view {view}"
        if len(self.names) < 2:
            return None
        return Photographs(self._path(1), self._path(2), (self.names[1], self.names[2]))

    def clear(self) -> None:
        """Forget both photographs."""
        self.names = {}

    def _path(self, view: int) -> Path:
        return self.folder / f"view{view}"


def limit(gui: viser.GuiApi, most: int = LIMIT) -> None:
    """Drop an upload that announces more than so many bytes, and all that send twice as many.

    viser keeps what a browser sends until an upload is whole, however large it says it is, and
    has no setting for that. These handlers run after its own and forget an upload in time.
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
