import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import viser

from prob3r.cli.view import view
from prob3r.errors import Prob3rError
from prob3r.scenes import Pair
from prob3r.viewer import Viewer
from prob3r.viewer.experiment import ProbedModel
from prob3r.viewer.server import check_free, is_local
from prob3r.viewer.visit import Visit
from tests.viewer.conftest import Given


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.7", False),
        ("example.org", False),
    ],
)
def test_local_addresses_are_known(host: str, local: bool) -> None:
    assert is_local(host) == local


def test_a_port_in_use_is_one_sentence(probed: ProbedModel, room: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Prob3rError, match=rf"port {port} .*give another --port"):
            Viewer(probed, Given(room), port=port)
    check_free("127.0.0.1", port)


def said(client: Mock) -> list[str]:
    return [call.args[1] for call in client.add_notification.call_args_list]


def test_a_failing_action_is_a_message_and_an_entry_in_the_log(session, caplog) -> None:
    client = Mock(viser.ClientHandle, scene=Mock(viser.SceneApi))
    visit = Visit(client, session)
    event = SimpleNamespace(client=client)

    def fails(_: object) -> None:
        raise ZeroDivisionError("a secret detail")

    def refuses(_: object) -> None:
        raise Prob3rError("Say which head.")

    with caplog.at_level(logging.ERROR):
        visit.guarded(refuses)(event)
        assert caplog.records == []
        visit.guarded(fails)(event)
    assert said(client)[0] == "Say which head."
    assert "An error occurred" in said(client)[1]
    assert "secret" not in said(client)[1]
    assert "a secret detail" in caplog.text
    visit.guarded(fails)(SimpleNamespace(client=None))
    visit.close()
    visit.guarded(fails)(event)
    assert len(said(client)) == 2
    assert not visit.folder.exists()


class Dropdown:
    """As much of one of viser's controls as the viewer's callbacks see."""

    def __init__(self) -> None:
        self.value = "nothing"
        self.callbacks: list[Callable[[object], object]] = []

    def on_update(self, callback: Callable[[object], object]) -> None:
        self.callbacks.append(callback)

    def choose(self, value: str, client: Mock) -> threading.Thread:
        """Do what viser does about a message from a browser; return the callback's thread."""
        self.value, event = value, SimpleNamespace(client=client)
        note, act = self.callbacks
        coroutine = note(event)
        assert isinstance(coroutine, Coroutine)
        asyncio.run(coroutine)
        thread = threading.Thread(target=act, args=(event,))
        thread.start()
        return thread


def test_a_choice_outlasts_the_refresh_that_it_waits_for(session) -> None:
    client = Mock(viser.ClientHandle, scene=Mock(viser.SceneApi))
    visit, control = Visit(client, session), Dropdown()
    done: list[str] = []
    waiting: list[threading.Thread] = []
    visit.on_update(control, lambda _: done.append(control.value))

    def refresh(_: object) -> None:
        waiting.extend(control.choose(value, client) for value in ("mini", "other"))
        control.value = "nothing"  # what the session still says
        assert done == []

    visit.guarded(refresh)(SimpleNamespace(client=client))
    for thread in waiting:
        thread.join()
    assert done == ["other"]
    assert said(client) == []
    visit.close()


def test_the_command_says_what_was_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Prob3rError, match=r"cannot listen on 127\.0\.0\.1"):
            view(port=port)
    with pytest.raises(Prob3rError, match=r"missing\.jpg alone is no scene; view needs two"):
        view(images=[Path("missing.jpg")], port=0)
    with pytest.raises(Prob3rError, match="needs two photographs"):
        view(images=[Path("a.jpg")], room=3, port=0)
    with pytest.raises(Prob3rError, match="takes at most 2 views, and there are 3"):
        view(images=[Path("a.jpg")] * 3, port=0)  # told before they are read


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_command_cleanly(sent: signal.Signals) -> None:
    # Where tests run in the background, a shell may have them ignore the interrupt.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    view = "from prob3r.cli.view import view; view(browser=False, port=0, host='0.0.0.0')"
    pipe = subprocess.PIPE
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-u", "-c", heed + view]
    running = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    assert running.stdout is not None
    assert "everybody who reaches this machine" in running.stdout.readline()
    assert "Open http://127.0.0.1:" in running.stdout.readline()
    running.send_signal(sent)
    out, err = running.communicate(timeout=120)
    assert (running.returncode, out, err.strip()) == (0, "", "Ended.")
