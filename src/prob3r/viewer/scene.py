"""The renderer: a drawing of a session in a viser scene, kept up to date."""

from collections.abc import Sequence

import numpy as np
import viser
import viser.transforms as tf
from jaxtyping import Float, UInt8

from prob3r.viewer import colours
from prob3r.viewer.attention import Pin, rays
from prob3r.viewer.clouds import Box, Click, Drawing, Frustum, cameras, path_lines, pick
from prob3r.viewer.session import Session

UP = (0.0, -1.0, 0.0)
"""The up direction in camera 1's frame."""
FRUSTUM = 0.16
"""Distance of a photograph from its camera, as a share of the radius of a scene of two views."""
POINT = 1.2
"""Width of a point, as a share of the space between neighbours at the mean distance."""
PAPER = 235
"""Grey value of the faintest rays."""


class SceneRenderer:
    """Draw one session into one viser scene.

    Args:
        scene: The scene of a client, or of a server that records.
        session: The session to draw.
    """

    def __init__(self, scene: viser.SceneApi, session: Session):
        self.scene, self.session = scene, session
        self._clear()

    def _clear(self) -> None:
        self.drawings: list[Drawing] = []
        self.frames: list[viser.FrameHandle] = []
        self.clouds: list[dict[int, viser.PointCloudHandle]] = []
        self.frustums: list[dict[int, viser.CameraFrustumHandle]] = []
        self.pins: list[tuple[Pin, viser.LineSegmentsHandle, viser.IcosphereHandle]] = []
        self.box = Box(-np.ones(3), np.ones(3))

    def draw(self) -> None:
        """Draw everything again, at the session's position on the timeline."""
        panes, display = self.session.panes, self.session.display
        for frame in self.frames:
            frame.remove()
        self._clear()
        self.box = Box.of(panes)
        for i, pane in enumerate(panes):
            self.drawings.append(Drawing.of(pane, display))
            name, at = f"/pane{i}", self.offset(i)
            self.frames.append(self.scene.add_frame(name, show_axes=False, position=at))
            self._draw_pane(i)
        self.draw_pins()

    def move(self) -> None:
        """Move everything that is drawn to the session's position on the timeline."""
        position = self.session.timeline.position
        every = zip(self.drawings, self.clouds, self.frustums, strict=True)
        for drawing, clouds, frustums in every:
            points = drawing.points(position)
            for view, cloud in clouds.items():
                cloud.points = points[view - 1]
            if drawing.repaints:
                painted = drawing.paint(position)
                for view, cloud in clouds.items():
                    cloud.colors = painted[view - 1]
            poses = drawing.poses(position)
            for view, frustum in frustums.items():
                pose = poses[view - 1]
                frustum.wxyz, frustum.position = _quaternion(pose), pose[:3, 3]
        self._move_pins()

    def offset(self, pane: int) -> Float[np.ndarray, "3"]:
        """Return the position of a pane; the origin is camera 1 of the first pane."""
        return np.array([pane * self.box.width, 0.0, 0.0])

    def pick(self, origin: Sequence[float], direction: Sequence[float]) -> Pin | None:
        """Return the patch that a click hits; None if it hits no patch."""
        clicks: list[tuple[Click, Drawing]] = []
        unit = np.array(direction) / np.linalg.norm(direction)
        for i, drawing in enumerate(self.drawings):
            start = np.array(origin) - self.offset(i)
            click = pick(drawing, self.session.timeline.position, start, unit, self.depth)
            if click is not None:
                clicks.append((click, drawing))
        if not clicks:
            return None
        click, drawing = min(clicks, key=lambda found: found[0].distance)
        experiment = drawing.pane.experiment
        if experiment.grids != self.session.experiment.grids:
            return None
        patch = experiment.probed.model.config.patch
        columns = experiment.grids[click.view - 1][1]
        return Pin(click.view, click.row // patch * columns + click.column // patch)

    @property
    def depth(self) -> float:
        """Distance of a photograph from its camera."""
        return FRUSTUM * self.box.radius * (2 / self.session.experiment.views.count) ** 0.3

    def draw_pins(self) -> None:
        """Draw the chosen patches of the present state, and rays to the patches they attend to."""
        for _, line, ball in self.pins:
            line.remove()
            ball.remove()
        self.pins = []
        for i, pin in enumerate(self.session.pins):
            name = f"/pane{self.session.present}/pin{i}"
            lines, painted = self._rays(pin, colours.PINS[i])
            line = self.scene.add_line_segments(
                f"{name}/rays", lines, painted, thickness=3.0, thickness_units="screen"
            )
            ball = self.scene.add_icosphere(
                f"{name}/patch",
                radius=0.015 * self.box.radius,
                color=colours.PINS[i],
                position=lines[0, 1],
                cast_shadow=False,
                receive_shadow=False,
            )
            self.pins.append((pin, line, ball))

    def _move_pins(self) -> None:
        for i, (pin, line, ball) in enumerate(self.pins):
            lines, _ = self._rays(pin, colours.PINS[i])
            line.points, ball.position = lines, lines[0, 1]

    def _rays(
        self, pin: Pin, colour: tuple[int, int, int]
    ) -> tuple[Float[np.ndarray, "r 2 3"], UInt8[np.ndarray, "r 2 3"]]:
        """Return rays from the pin's camera to the pin, and from other cameras to attended patches.

        A special token has no position in the scene; its camera stands for it. Rays to patches with
        less attention are fainter.
        """
        drawing, position = self.drawings[self.session.present], self.session.timeline.position
        maps, centres = drawing.maps(position), drawing.poses(position)[:, :3, 3]
        found = rays(self.session.watched(pin))
        own = centres[pin.view - 1]
        place = own if pin.token else self._middles(maps, pin.view)[pin.patch]
        middles = {view: self._middles(maps, view) for view in set(found.views.tolist())}
        seen = [middles[v][k] for v, k in zip(found.views.tolist(), found.keys, strict=True)]
        ends = np.stack([place, *seen])
        starts = np.concatenate([own[None], centres[found.views - 1]])
        lines = np.stack([starts, np.where(np.isfinite(ends), ends, starts)], axis=1)
        strength = np.sqrt(np.concatenate([[1.0], found.weights]))[:, None]
        faded = PAPER - strength * (PAPER - np.array(colour))
        return lines, np.repeat(faded[:, None], 2, axis=1).astype(np.uint8)

    def _middles(
        self, maps: Sequence[Float[np.ndarray, "h w 3"]], view: int
    ) -> Float[np.ndarray, "n 3"]:
        """Return the point at the centre of every patch."""
        experiment = self.session.experiment
        patch = experiment.probed.model.config.patch
        rows, columns = (
            (np.arange(count) * patch + patch // 2) // experiment.stride
            for count in experiment.grids[view - 1]
        )
        points: np.ndarray = maps[view - 1][rows][:, columns]
        return points.reshape(-1, 3)

    def _draw_pane(self, i: int) -> None:
        drawing, display = self.drawings[i], self.session.display
        position, name = self.session.timeline.position, f"/pane{i}"
        experiment = drawing.pane.experiment
        size = POINT * display.size * experiment.stride / experiment.focal[0][0]
        views = zip(drawing.points(position), drawing.paint(position), strict=True)
        self.clouds.append(
            {
                view: self.scene.add_point_cloud(
                    f"{name}/view{view}",
                    points,
                    painted,
                    point_size=size,
                    point_shape="circle",
                    point_shading="flat",
                    precision="float32",
                )
                for view, (points, painted) in enumerate(views, 1)
                if len(points)
            }
        )
        ghost = drawing.ghost()
        if ghost is not None:
            self.scene.add_point_cloud(
                f"{name}/ghost", ghost, colours.GHOST, point_size=0.6 * size, point_shading="flat"
            )
        self.frustums.append(
            {
                view: self._draw_camera(f"{name}/camera{view}", view, camera)
                for view, camera in cameras(drawing, position).items()
            }
        )
        if display.paths:
            for view, lines in path_lines(drawing).items():
                self.scene.add_line_segments(
                    f"{name}/path{view}",
                    lines,
                    colours.of_view(view),
                    thickness=2.5,
                    thickness_units="screen",
                )
        if len(self.session.panes) > 1:
            top = (self.box.centre[0], self.box.low[1] - 0.12 * self.box.radius, self.box.centre[2])
            self.scene.add_label(
                f"{name}/title", drawing.pane.title, position=top, anchor="bottom-center"
            )

    def _draw_camera(self, name: str, view: int, frustum: Frustum) -> viser.CameraFrustumHandle:
        handle = self.scene.add_camera_frustum(
            name,
            frustum.fov,
            frustum.aspect,
            color=colours.of_view(view),
            image=frustum.image,
            wxyz=_quaternion(frustum.pose),
            position=frustum.pose[:3, 3],
            thickness=2.0,
            thickness_units="screen",
            cast_shadow=False,
            receive_shadow=False,
        )
        handle.scale = self.depth / handle.compute_canonical_frustum_size()[2]
        return handle


def _quaternion(pose: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4"]:
    """Return the rotation of a pose as a quaternion (w, x, y, z), as viser needs it."""
    wxyz: np.ndarray = tf.SO3.from_matrix(pose[:3, :3].astype(float)).wxyz
    return wxyz
