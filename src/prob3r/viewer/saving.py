"""Downloads of a session: the explain page, a point cloud, a picture, a recording.

Each file is made in memory or in a temporary folder, and sent to the browser as a download.
"""

import copy
import io
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import viser
from jaxtyping import UInt8
from PIL import Image

from prob3r.reliability.matchers import best_matcher
from prob3r.report import Explanation, explain, write_page, write_ply
from prob3r.viewer.scene import UP, SceneRenderer
from prob3r.viewer.session import Session
from prob3r.viewer.timeline import TimelinePosition

FRAME_SECONDS = 0.12
"""Seconds between two frames of a recording."""
FRAMES = 3
"""Frames from one site to the next."""

_RECORDING = threading.Lock()  # one recording at a time, because each one holds its own scene


def explanation(session: Session) -> Explanation:
    """Return the explanation of the present state, with its ablations."""
    name = session.probed.name
    if session.ablations:
        name += f" without {'; '.join(ablation.words for ablation in session.ablations)}"
    probed, views = session.probed, session.experiment.views
    return explain(
        probed.model,
        views,
        probed.bank,
        model_name=name,
        edits=session.edits,
        matcher=best_matcher(),
    )


def page(session: Session) -> bytes:
    """Return the explain page of the present state."""
    return _written(write_page, explanation(session), "page.html")


def ply(session: Session) -> bytes:
    """Return the present state's output as a point cloud."""
    return _written(write_ply, explanation(session), "points.ply")


def png(client: viser.ClientHandle, seconds: float = 20.0) -> bytes:
    """Return a PNG picture of the scene as the browser shows it, on white.

    Raises:
        TimeoutError: The browser returns no picture within `seconds`.
    """
    camera = client.camera
    height, width = camera.image_height, camera.image_width
    render = client.get_render(height, width, transport_format="png", timeout=seconds)
    return _on_white(render)


def recording(session: Session) -> bytes:
    """Return the scene as it moves along the whole timeline, as a `.viser` file."""
    shown = copy.copy(session)
    last = session.timeline.last
    shown.timeline = TimelinePosition(last)
    # viser records the scene of a server, not that of a client. So the recording has its own
    # server, on a port that the system chooses and that only this machine can reach.
    with _RECORDING:
        server = viser.ViserServer("127.0.0.1", 0, verbose=False)
        try:
            server.scene.set_up_direction(UP)
            renderer = SceneRenderer(server.scene, shown)
            renderer.draw()
            serializer = server.get_scene_serializer()
            for frame in range(1, FRAMES * last + 1):
                serializer.insert_sleep(FRAME_SECONDS)
                shown.timeline.position = frame / FRAMES
                renderer.move()
            serializer.insert_sleep(1.0)
            return serializer.serialize()
        finally:
            server.stop()


def _written(
    write: Callable[[Explanation, Path], None], explanation: Explanation, name: str
) -> bytes:
    with TemporaryDirectory(prefix="prob3r-") as folder:
        path = Path(folder) / name
        write(explanation, path)
        return path.read_bytes()


def _on_white(render: UInt8[np.ndarray, "h w c"]) -> bytes:
    image = Image.fromarray(render).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    content = io.BytesIO()
    Image.alpha_composite(white, image).convert("RGB").save(content, "PNG")
    return content.getvalue()
