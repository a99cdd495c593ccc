"""The check of every request: the viewer answers only under its own addresses and to its own page.

A web page of another site can open a websocket to any address that the browser can reach, and the
owner of that site can let its name resolve to this machine (DNS rebinding). The browser still sends
two correct headers: `Host` is the address that the page asked for, and `Origin` is the address that
the page came from. The viewer refuses a request if `Host` is not one of its own addresses, or if
`Origin` is not the same address.
"""

import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio import server
from websockets.http11 import Request, Response

from prob3r.errors import Prob3rError

logger = logging.getLogger(__name__)

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/?#\s]+)(:[0-9]{1,5})?")
_MOST = 100
"""Characters of a header that the log shows."""

_patching = threading.Lock()


class Gate:
    """The rule for which requests the viewer answers.

    The port is not compared, because a tunnel may lead from another port to the port of the viewer,
    and then the browser sends the other port in both headers.

    Args:
        host: The address that the viewer listens on.
        names: Other host names that browsers may use for it.
    """

    def __init__(self, host: str, names: Sequence[str] = ()):
        self.host = host.lower()
        self.names = {self.host, *(name.lower() for name in names)}
        self._addresses = {address.partition("%")[0] for address in _addresses(self.host)}
        self._everywhere = any(ipaddress.ip_address(a).is_unspecified for a in self._addresses)
        self._local = any(ipaddress.ip_address(a).is_loopback for a in self._addresses)
        if self._everywhere:
            self.names.add(socket.gethostname().lower())
        if self._everywhere or self._local:
            self.names.add("localhost")

    def refusal(
        self, hosts: Sequence[str], origins: Sequence[str] = (), websocket: bool = False
    ) -> str | None:
        """Return the reason to refuse a request, in one sentence; None if it is answered.

        Args:
            hosts: Its `Host` headers; exactly one is allowed.
            origins: Its `Origin` headers.
            websocket: Whether it asks for a websocket, which needs an `Origin`.
        """
        if len(hosts) != 1 or not self._own(hosts[0].lower()):
            return (
                f"Refused a request for {_words(hosts)}: the viewer answers under "
                f"{self.words} alone."
            )
        # Browsers send no Origin when they load a page, and always one with a websocket.
        own = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")}
        if (origins or websocket) and (len(origins) != 1 or origins[0].lower() not in own):
            return (
                f"Refused a connection from a page of {_words(origins)}: only the page of "
                f"http://{hosts[0]} may use the viewer."
            )
        return None

    @property
    def words(self) -> str:
        """The addresses under which the viewer answers, in words."""
        named = sorted(self.names | (self._addresses if not self._everywhere else set()))
        if self._everywhere:
            named = ["every numeric address of this machine", *sorted(self.names - {self.host})]
        return ", ".join(named)

    def _own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]")
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # DNS rebinding is not possible with a numeric address.
        if self._everywhere or (self._local and address.is_loopback):
            return True
        return str(address) in self._addresses


@contextmanager
def gated(gate: Gate) -> Iterator[None]:
    """Make the websocket server that viser starts inside this block check each request by a gate.

    viser (1.1) has no hook for a request before it is answered. websockets has one: `serve` takes a
    `process_request`. This context manager puts the check before viser's own function.

    Raises:
        Prob3rError: viser did not start its server through this function, so it is not guarded.
    """
    plain = server.serve
    started = []

    def serve(*args: Any, process_request: Answer | None = None, **settings: Any) -> server.serve:
        started.append(True)

        def check(connection: server.ServerConnection, request: Request) -> Any:
            hosts, origins, upgrades = map(request.headers.get_all, ("Host", "Origin", "Upgrade"))
            refusal = gate.refusal(hosts, origins, bool(upgrades))
            if refusal is None:
                return process_request(connection, request) if process_request else None
            logger.warning(refusal)
            return connection.respond(HTTPStatus.FORBIDDEN, f"{refusal}\n")

        return plain(*args, process_request=check, **settings)

    with _patching:
        server.serve = serve  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            server.serve = plain  # type: ignore[misc]
    if not started:
        raise Prob3rError(
            "This version of viser starts its server in a way that prob3r cannot guard; "
            "install it with pip install 'viser>=1.1,<1.2'."
        )


Answer = Callable[[server.ServerConnection, Request], Response | None]


def _addresses(host: str) -> set[str]:
    """Return the numeric addresses of a host; an empty host stands for all addresses."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Prob3rError(f"The viewer cannot listen on '{host}' ({error}).") from error
    return {str(entry[4][0]) for entry in found}


def _words(values: Sequence[str]) -> str:
    """Return the values of a header as text, each cut to a maximum length."""
    return " and ".join(repr(value[:_MOST]) for value in values) or "no address"
