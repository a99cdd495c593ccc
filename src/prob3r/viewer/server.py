"""The server of the viewer: it binds a port and gives every browser its own session."""

import ipaddress
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence

import rich
import viser

from prob3r.errors import Prob3rError
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.gate import Gate, gated
from prob3r.viewer.panels import Panel
from prob3r.viewer.scene import UP
from prob3r.viewer.session import Session
from prob3r.viewer.sources import ViewsSource
from prob3r.viewer.visit import Visit

logger = logging.getLogger(__name__)


class Viewer:
    """A running viewer.

    Args:
        probed: The model with its probes.
        source: The scene that every browser sees first.
        others: Models to compare with, by label; each is loaded when it is first chosen.
        host: The address to bind to. If it is not a loopback address, other machines can connect.
        port: The port, or 0 for any free port.
        names: Other host names that browsers may use for this server; see `Gate`.

    Raises:
        Prob3rError: The scene cannot be read, or the address cannot be bound to.
    """

    def __init__(
        self,
        probed: ProbedModel,
        source: ViewsSource,
        others: Mapping[str, Callable[[], ProbedModel]] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        names: Sequence[str] = (),
    ):
        check_free(host, port)
        gate = Gate(host, names)
        self.probed, self.source, self.others = probed, source, dict(others or {})
        self.experiment = Experiment(probed, source.views(probed.model))
        self.visits: dict[int, Visit] = {}
        # viser reports every stop on the console; only this package writes there.
        rich.get_console().quiet = True
        try:
            with gated(gate):
                self._server = viser.ViserServer(host, port, verbose=False)
        except Prob3rError:  # the server already runs, but without the gate
            self._server.stop()
            raise
        self._server.scene.set_up_direction(UP)
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(self._farewell)

    @property
    def url(self) -> str:
        """The URL of the viewer for a browser on this machine."""
        host = self._server.get_host()
        name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        bracketed = f"[{name}]" if ":" in name else name
        return f"http://{bracketed}:{self._server.get_port()}"

    def open_browser(self) -> None:
        """Open the page in the person's browser."""
        webbrowser.open(self.url)

    def wait(self) -> None:
        """Wait until the program is interrupted."""
        threading.Event().wait()

    def stop(self) -> None:
        """End all visits and the server."""
        for visit in list(self.visits.values()):
            visit.close()
        self._server.stop()

    def _welcome(self, client: viser.ClientHandle) -> None:
        try:
            session = Session(self.probed, self.source, self.others, self.experiment)
            visit = Visit(client, session)
            self.visits[client.client_id] = visit
            visit.begin()
            Panel(visit)
        except Exception:  # as in `Visit.guarded`
            logger.exception("A visit failed to begin")

    def _farewell(self, client: viser.ClientHandle) -> None:
        visit = self.visits.pop(client.client_id, None)
        if visit is not None:
            visit.close()


def check_free(host: str, port: int) -> None:
    """Raise Prob3rError if a port cannot be bound; viser would silently use the next one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise Prob3rError(
            f"The viewer cannot listen on {host}, port {port} ({error}); give another --port."
        ) from error


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
