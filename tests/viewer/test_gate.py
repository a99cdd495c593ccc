"""Requests as a hostile web page in the same browser would make them, byte for byte."""

import logging
import socket
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import viser
from websockets.asyncio import server

from prob3r.errors import Prob3rError
from prob3r.scenes import Pair
from prob3r.viewer import Viewer
from prob3r.viewer.experiment import ProbedModel
from prob3r.viewer.gate import Gate, gated
from tests.viewer.conftest import Given


@pytest.fixture(scope="module")
def port(probed: ProbedModel, room: Pair) -> Iterator[int]:
    viewer = Viewer(probed, Given(room), port=0)
    yield int(viewer.url.rpartition(":")[2])
    viewer.stop()


def answer(port: int, *headers: str) -> str:
    """Return the first line of the answer to a request with these headers."""
    request = "\r\n".join(["GET / HTTP/1.1", *headers, "", ""]).replace("PORT", str(port))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode().strip()


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    f"Sec-WebSocket-Protocol: viser-v{viser.__version__}",
)
OWN = "Host: 127.0.0.1:PORT"
FROM_OWN = "Origin: http://127.0.0.1:PORT"


@pytest.mark.parametrize(
    "headers",
    [
        (OWN, FROM_OWN),
        ("Host: localhost:PORT", "Origin: http://localhost:PORT"),
        ("HOST: LocalHost:9000", "ORIGIN: http://localhost:9000"),  # a tunnel from another port
    ],
)
def test_its_own_page_gets_a_websocket(headers: tuple[str, ...], port: int) -> None:
    assert answer(port, *headers, *HANDSHAKE) == "HTTP/1.1 101 Switching Protocols"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ((OWN, "Origin: https://evil.example"), "a page of 'https://evil.example'"),
        ((OWN, "Origin: http://127.0.0.1:1"), "a page of 'http://127.0.0.1:1'"),
        ((OWN, "Origin: http://localhost:PORT"), "a page of 'http://localhost:"),
        ((OWN, "Origin: null"), "a page of 'null'"),
        ((OWN,), "a page of no address"),
        ((OWN, FROM_OWN, "Origin: http://evil.example"), "and 'http://evil.example'"),
        (("Host: evil.example", "Origin: http://evil.example"), "a request for 'evil.example'"),
        (("Host: evil.example:PORT", FROM_OWN), "a request for 'evil.example:"),
        (("Host: 127.0.0.1:PORT.evil.example", FROM_OWN), "a request for '127.0.0.1:"),
        (("Host: evil@127.0.0.1:PORT", "Origin: http://evil@127.0.0.1:PORT"), "'evil@127"),
        (("Host: 192.0.2.1:PORT", "Origin: http://192.0.2.1:PORT"), "for '192.0.2.1:"),
        (("Host: 0.0.0.0:PORT", "Origin: http://0.0.0.0:PORT"), "for '0.0.0.0:"),
        (("Host:", "Origin: http://"), "a request for ''"),
        ((FROM_OWN,), "a request for no address"),
        ((OWN, "Host: evil.example", FROM_OWN), "and 'evil.example'"),
    ],
)
def test_every_other_websocket_is_refused_in_words(
    headers: tuple[str, ...], said: str, port: int, caplog
) -> None:
    with caplog.at_level(logging.WARNING, "prob3r"):
        assert answer(port, *headers, *HANDSHAKE) == "HTTP/1.1 403 Forbidden"
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((OWN,), "200 OK"),
        ((OWN, FROM_OWN), "200 OK"),
        (("Host: evil.example",), "403 Forbidden"),
        ((OWN, "Origin: https://evil.example"), "403 Forbidden"),
        ((), "403 Forbidden"),
    ],
)
def test_pages_are_served_under_its_own_address_alone(
    headers: tuple[str, ...], status: str, port: int
) -> None:
    assert answer(port, *headers) == f"HTTP/1.1 {status}"


@pytest.mark.parametrize(
    ("told", "names", "own", "foreign"),
    [
        ("127.0.0.1", (), ("localhost", "127.0.0.1:8080", "[::1]:8080"), ("evil", "192.0.2.1")),
        ("::1", (), ("localhost", "[::1]:8080"), ("[2001:db8::1]:8080",)),
        ("192.0.2.1", (), ("192.0.2.1:8080",), ("localhost", "127.0.0.1", "192.0.2.2")),
        ("192.0.2.1", ("box.lan",), ("192.0.2.1", "Box.LAN:80"), ("evil.box.lan", "lan")),
        ("0.0.0.0", (), ("localhost", "192.0.2.1", "[2001:db8::1]:1"), ("evil.example", "box.lan")),
        ("0.0.0.0", (), (socket.gethostname(),), (f"{socket.gethostname()}.evil.example",)),
        ("", ("box.lan",), ("box.lan", "127.0.0.1"), ("", ":8080", "evil.example")),
    ],
)
def test_it_answers_under_what_it_was_told(
    told: str, names: tuple[str, ...], own: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    gate = Gate(told, names)
    for host in own:
        assert gate.refusal([host]) is None
    for host in foreign:
        assert "Refused" in str(gate.refusal([host]))


def test_a_log_is_not_filled_by_one_header() -> None:
    assert len(str(Gate("127.0.0.1").refusal(["a" * 8000]))) < 250


def test_a_server_that_cannot_be_guarded_is_an_error() -> None:
    before = server.serve
    with pytest.raises(Prob3rError, match="cannot guard"), gated(Gate("127.0.0.1")):
        assert server.serve is not before
    assert server.serve is before


def test_a_viewer_that_cannot_be_guarded_is_stopped(
    probed: ProbedModel, room: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    unguarded = Mock(viser.ViserServer)
    monkeypatch.setattr(viser, "ViserServer", lambda *_, **__: unguarded)
    with pytest.raises(Prob3rError, match="cannot guard"):
        Viewer(probed, Given(room), port=0)
    unguarded.stop.assert_called_once_with()


def test_an_unknown_host_is_one_sentence() -> None:
    with pytest.raises(Prob3rError, match=r"cannot listen on 'no\.such\.host\.invalid'"):
        Gate("no.such.host.invalid")
