"""A visit: one browser, its session, its scene and its panel. No visit changes another one."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import viser

from prob3r.errors import Prob3rError
from prob3r.viewer.scene import SceneRenderer
from prob3r.viewer.session import Session
from prob3r.viewer.timeline import STAY_SECONDS

logger = logging.getLogger(__name__)

FRAME_SECONDS = 1 / 25
HOME = np.array([-0.30, -0.34, -0.89])
"""Direction from the centre of the scene to the first viewpoint, in camera 1's frame."""
NARROW = 576
"""Width in pixels below which viser puts the panel under the scene instead of beside it."""
CLOSE = 1.05
"""Distance of that viewpoint, as a share of the distance at which the whole scene is visible."""


def set_value(handle: Any, value: object) -> None:
    """Set the value of a control; viser declares it so that type checkers see it as read-only."""
    handle.value = value


class Visit:
    """One browser at work.

    Args:
        client: The browser.
        session: Its session.

    Attributes:
        renderer: The renderer of its scene.
        playing: Whether the timeline plays.
        on_move: Called after the timeline has moved, to update the panel.
        on_change: Called after any other change.
    """

    def __init__(self, client: viser.ClientHandle, session: Session):
        self.client, self.session = client, session
        self.renderer = SceneRenderer(client.scene, session)
        self.playing = False
        self.on_move: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._folder = TemporaryDirectory(prefix="prob3r-")
        self._player = threading.Thread(target=self._play, daemon=True)
        self._player.start()

    @property
    def folder(self) -> Path:
        """The folder of this visit's uploads; it is deleted when the visit ends."""
        return Path(self._folder.name)

    def guarded(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return a callback that runs one at a time; an error in it is shown as a message."""

        def callback(event: Any) -> None:
            if event.client is None or self._closed.is_set():
                return  # the program changed a value itself, or the browser is gone
            try:
                with self._lock:
                    action(event)
            except Prob3rError as error:
                self.say(str(error))
            except Exception:  # no error may affect the other visits
                logger.exception("An action of the viewer failed")
                self.say(
                    "An error occurred; the viewer's log has the details. Continue, or reload."
                )

        return callback

    def on_update(self, handle: Any, action: Callable[[Any], None]) -> None:
        """Run an action when a person changes a control, with the latest value of the control.

        While the action waits for its turn, a refresh of the panel may reset the control to the
        value of the session. So the chosen value is kept here and set again. Of several changes
        only the last one counts.
        """
        chosen: list[object] = []  # the latest value that is not handled yet

        async def note(event: Any) -> None:  # viser runs it as soon as the message has arrived
            if event.client is not None:
                chosen[:] = [handle.value]

        def act(event: Any) -> None:
            if chosen:  # otherwise an earlier call has handled it
                set_value(handle, chosen.pop())
                action(event)

        handle.on_update(note)
        handle.on_update(self.guarded(act))

    def say(self, text: str) -> None:
        """Show a message."""
        self.client.add_notification("prob3r", text, auto_close_seconds=8.0, color="orange")

    def animate(self) -> None:
        """Start the motion of the points to the target of the timeline."""
        self._wake.set()

    def begin(self) -> None:
        """Draw the scene for the first time."""
        self.renderer.draw()
        self.look_home()

    def redraw(self) -> None:
        """Draw the scene again, and update the panel."""
        with self.client.atomic():
            self.renderer.draw()
        self.on_change()

    def change(self, *, home: bool) -> None:
        """Show a changed session; with `home`, reset the viewpoint too."""
        self.redraw()
        if home:
            self.look_home()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show a notification while a long action runs."""
        notice = self.client.add_notification(what, "", loading=True, with_close_button=False)
        try:
            yield
        finally:
            notice.remove()

    def look_home(self) -> None:
        """Set the viewpoint: behind camera 1, a little above and to the side, so that all shows."""
        box, camera = self.renderer.box, self.client.camera
        beside = self.renderer.offset(len(self.renderer.drawings) - 1)
        aspect = camera.image_width / max(camera.image_height, 1)
        half = np.tan(camera.fov / 2) * min(1.0, aspect)
        away = (box.radius + np.linalg.norm(beside) / 2) * CLOSE / half
        centre = box.centre + beside / 2
        if camera.image_width < NARROW:  # the panel covers the lower half
            centre = centre + np.array([0.0, 0.5 * away * np.tan(camera.fov / 2), 0.0])
        camera.up_direction = (0.0, -1.0, 0.0)
        camera.position = centre + away * HOME
        camera.look_at = centre

    def close(self) -> None:
        """End the visit."""
        self._closed.set()
        self._wake.set()
        self._player.join(timeout=5.0)
        self._folder.cleanup()

    def step(self, seconds: float) -> None:
        """Advance the timeline by some seconds, and show it."""
        with self._lock, self.client.atomic():
            self.session.timeline.advance(seconds)
            self.renderer.move()
            self.on_move()

    def _play(self) -> None:
        """Draw frames while the timeline moves, until the visit ends."""
        left = time.monotonic()
        while not self._closed.is_set():
            if not (self.session.timeline.moving or self.playing):
                self._wake.wait()
            self._wake.clear()
            try:
                if self.playing and time.monotonic() - left > STAY_SECONDS:
                    left = time.monotonic()
                    timeline = self.session.timeline
                    self.session.move(
                        0 if timeline.target == timeline.last else timeline.target + 1
                    )
                if self.session.timeline.moving and not self._closed.is_set():
                    self.step(FRAME_SECONDS)
            except Exception:
                logger.exception("The timeline failed")
                self.playing = False
                self.session.timeline.position = float(self.session.timeline.target)
            time.sleep(FRAME_SECONDS)
