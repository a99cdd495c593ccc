"""The viewer's server, driven by a client that speaks viser's protocol and draws nothing.

Five numbers, each beside its bar:

- how long it takes from the slider's message to the first moved points that the client hears;
- how long a move of the timeline takes on the server, from the wish to the last message queued;
- how long a knockout of one head takes, from the wish to the new scene: rerun, decoding, curves
  and numbers, at the first, the middle and the last block of the decoder;
- how long it takes from the start of the process to the first view in a client;
- how much memory grows over random actions of all kinds, after the first of them, and how often
  anything was logged as an error.

Run `python benchmarks/viewer.py [actions]` on a machine that is idle; it says on how many cores.
"""

import logging
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

START = time.perf_counter()

import msgspec  # noqa: E402 - the clock must start before what takes time to import
import torch  # noqa: E402
import viser  # noqa: E402
import zstandard  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Origin, Subprotocol  # noqa: E402

from prob3r.cli.view import _others, _probed, _source  # noqa: E402
from prob3r.errors import Prob3rError  # noqa: E402
from prob3r.models.protocol import trunk  # noqa: E402
from prob3r.viewer import Viewer  # noqa: E402
from prob3r.viewer.ablations import (  # noqa: E402
    HEAD,
    MODES,
    Ablation,
    kinds_of,
    sublayers_of,
)
from prob3r.viewer.display import COLOURS, GHOSTS  # noqa: E402
from prob3r.viewer.visit import Visit  # noqa: E402

DRAGS, MOVES, ABLATIONS = 30, 200, 15
ACTIONS, SETTLED = 2000, 200
DRAG_BAR, MOVE_BAR, CUT_BAR, START_BAR, GROWTH_BAR = 0.300, 0.050, 0.300, 6.0, 0.10


class Client:
    """A browser without a screen: it says where its camera is, and hears everything."""

    def __init__(self, url: str):
        protocol = f"viser-v{viser.__version__}"
        address = url.replace("http", "ws")
        self.socket = connect(
            address,
            origin=Origin(url.rstrip("/")),
            subprotocols=[Subprotocol(protocol)],
            max_size=None,
            compression=None,
        )
        self.types: set[str] = set()
        self.slider = ""
        self.moved = threading.Event()
        self.first_view = threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()
        camera = {
            "type": "ViewerCameraMessage",
            "wxyz": [1.0, 0.0, 0.0, 0.0],
            "position": [0.0, 0.0, -3.0],
            "fov": 1.3,
            "near": 0.01,
            "far": 1000.0,
            "image_height": 800,
            "image_width": 900,
            "look_at": [0.0, 0.0, 0.0],
            "up_direction": [0.0, -1.0, 0.0],
        }
        self.socket.send(msgspec.msgpack.encode(camera))

    def _hear(self) -> None:
        unpack = zstandard.ZstdDecompressor()
        for frame in self.socket:
            assert isinstance(frame, bytes)
            self.bytes += len(frame)
            size, packed = (int.from_bytes(frame[i : i + 8], "little") for i in (0, 8))
            inner = unpack.decompress(frame[16 : 16 + packed], max_output_size=size)
            messages = msgspec.msgpack.decode(inner)["messages"]
            self.types |= {m["type"] for m in messages}
            for message in messages:
                if message["type"] == "GuiSliderMessage" and not self.slider:
                    self.slider = message["uuid"]  # the timeline's stands first
                if "points" in message.get("updates", ()):
                    self.moved.set()
            if {"PointCloudMessage", "CameraFrustumMessage", "GuiSliderMessage"} <= self.types:
                self.first_view.set()

    def send_to(self, step: int) -> float:
        """Drag the slider to a step; return the seconds until points were heard to move."""
        update = {"type": "GuiUpdateMessage", "uuid": self.slider, "updates": {"value": step}}
        self.moved.clear()
        start = time.perf_counter()
        self.socket.send(msgspec.msgpack.encode(update))
        if not self.moved.wait(timeout=30.0):
            raise RuntimeError("No points moved.")
        return time.perf_counter() - start

    def close(self) -> None:
        """Leave."""
        self.socket.close()


class Faults(logging.Handler):
    """Counts what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        cause = record.exc_info[1] if record.exc_info else None
        self.messages.append(f"{record.getMessage()}: {cause!r}")


def serve() -> Viewer:
    """Start a viewer of the bundled books in the shipped model."""
    probed = _probed("mini", "mlp", "cpu")
    return Viewer(
        probed,
        _source([], None),
        _others(probed, [], lambda name, kind: _probed(name, kind, "cpu")),
        port=0,
    )


def visit_of(viewer: Viewer) -> Visit:
    """Return the latest visit, once its panel is there."""
    while not viewer.visits:
        time.sleep(0.005)
    return viewer.visits[max(viewer.visits)]


def moves(visit: Visit) -> list[float]:
    """Return the server's seconds for each of many moves of the timeline."""
    generator, times = random.Random(0), []
    for _ in range(MOVES):
        last = visit.session.timeline.last
        start = time.perf_counter()
        visit.session.move(generator.randint(0, last))
        visit.step(0.1)
        times.append(time.perf_counter() - start)
        visit.step(10.0)
    return times


def drags(client: Client, visit: Visit) -> list[float]:
    """Return the seconds from a drag of the slider to moved points, at rest before each of them."""
    generator, times = random.Random(0), []
    for _ in range(DRAGS):
        timeline = visit.session.timeline
        others = [step for step in range(timeline.last + 1) if step != timeline.target]
        times.append(client.send_to(generator.choice(others)))
        while timeline.moving:
            time.sleep(0.05)
        time.sleep(0.2)
    return times


def knockouts(visit: Visit) -> dict[int, list[float]]:
    """Return the server's seconds for knocking a head out, by block."""
    depth = trunk(visit.session.probed.model).blocks
    times: dict[int, list[float]] = {}
    for block in (0, depth // 2, depth - 1):
        times[block] = []
        for i in range(ABLATIONS):
            start = time.perf_counter()
            visit.session.ablate(Ablation(HEAD, "zero", block, head=i % 4))
            visit.change(home=False)
            times[block].append(time.perf_counter() - start)
            visit.session.undo()
            visit.change(home=False)
    return times


def wishes(visit: Visit) -> list[tuple[int, Callable[[random.Random], None]]]:
    """Return everything that a person can do, and how often they do it."""
    session = visit.session
    stack = trunk(session.probed.model)

    def ablation(r: random.Random) -> None:
        kind = r.choice(kinds_of(stack, 2))
        mode = r.choice(list(MODES[kind]))
        sublayer = r.choice(sublayers_of(stack, kind))
        block, head = r.randrange(stack.blocks), r.randrange(stack.heads)
        if len(session.ablations) > 4:
            session.undo()
        session.ablate(Ablation(kind, mode, block, r.randrange(3), sublayer, head))
        visit.change(home=r.random() < 0.2)

    def shown(**changes: Any) -> None:
        session.show(**changes)
        visit.redraw()

    def pin(r: random.Random) -> None:
        session.pin(r.randint(1, 2), r.randrange(160))
        visit.redraw()

    def watch(r: random.Random) -> None:
        session.watch(r.randrange(stack.blocks), r.choice([None, *range(stack.heads)]))
        visit.redraw()

    def compare(r: random.Random) -> None:
        session.compare(r.choice([None, None, *session.others]))
        visit.change(home=True)

    def click(r: random.Random) -> None:
        direction = [r.uniform(-0.5, 0.5), r.uniform(-0.5, 0.5), 1.0]
        found = visit.renderer.pick((0.0, 0.0, -2.0), direction)
        if found is not None:
            session.pin(found.view, found.patch)
            visit.redraw()

    def move(r: random.Random) -> None:
        session.move(r.randint(-1, session.timeline.last + 1))
        for _ in range(r.randint(1, 12)):
            visit.step(0.04)

    def unpin(_: random.Random) -> None:
        session.unpin()
        visit.redraw()

    def undo(r: random.Random) -> None:
        (session.restore if r.random() < 0.2 else session.undo)()
        visit.change(home=False)

    return [
        (40, move),
        (8, ablation),
        (8, undo),
        (8, pin),
        (6, click),
        (5, watch),
        (2, unpin),
        (2, compare),
        (6, lambda r: shown(colour=r.choice(COLOURS))),
        (4, lambda r: shown(size=r.uniform(0.2, 3.0), hidden=r.randrange(90))),
        (4, lambda r: shown(views=r.choice([None, None, (1,), (2,), ()]))),
        (4, lambda r: shown(moving=r.randrange(3), ghost=r.choice(GHOSTS))),
        (1, lambda r: (session.open(session.source), visit.change(home=True))[1]),
    ]


def exercise(visit: Visit, actions: int) -> tuple[list[float], int]:
    """Do random things; return the memory in MB after the settling and then on, and refusals."""
    generator, refused = random.Random(1), 0
    weights, choices = zip(*wishes(visit), strict=True)
    event, memory = SimpleNamespace(client=visit.client), []

    def act(_: Any) -> None:
        nonlocal refused
        (wish,) = generator.choices(choices, weights)
        try:
            wish(generator)
        except Prob3rError:
            refused += 1
            raise

    for done in range(1, actions + 1):
        visit.guarded(act)(event)
        if done >= SETTLED and done % 50 == 0:
            time.sleep(0.05)  # so that what was sent has left
            memory.append(resident())
    return memory, refused


def resident() -> float:
    """Return the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def told(what: str, value: str, good: bool, bar: str) -> None:
    """Print one line of the table."""
    print(f"{what:<52} {value:>22}   {'ok' if good else 'MISSED'} (bar: {bar})", flush=True)


def first_view() -> float:
    """Return the seconds from the start of a process to the first view in its client."""
    result = subprocess.run(
        [sys.executable, __file__, "--first-view"], capture_output=True, text=True, check=True
    )
    return float(result.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    if "--first-view" in sys.argv:
        viewer = serve()
        client = Client(viewer.url)
        client.first_view.wait()
        print(time.perf_counter() - START + 0.05)  # the interpreter's own start
        viewer.stop()
        return
    actions = int(sys.argv[1]) if len(sys.argv) > 1 else ACTIONS
    faults = Faults()
    logging.getLogger().addHandler(faults)
    cores = len(os.sched_getaffinity(0))
    print(f"mini on the bundled books, {cores} core(s), {torch.get_num_threads()} thread(s)")
    starts = sorted(first_view() for _ in range(3))
    told("first view after start, median of 3", f"{starts[1]:.2f} s", starts[1] < START_BAR, "6 s")
    viewer = serve()
    client = Client(viewer.url)
    client.first_view.wait()
    visit = visit_of(viewer)
    time.sleep(0.5)
    times = drags(client, visit)
    ranked = statistics.quantiles(times, n=20)
    told(
        f"slider to moved points, {DRAGS} drags: median, 95 %",
        f"{1e3 * ranked[9]:.1f}, {1e3 * ranked[18]:.1f} ms",
        ranked[18] < DRAG_BAR,
        "300 ms",
    )
    times = moves(visit)
    ranked = statistics.quantiles(times, n=20)
    told(
        f"timeline move, {MOVES} moves: median, 95 %",
        f"{1e3 * ranked[9]:.1f}, {1e3 * ranked[18]:.1f} ms",
        ranked[18] < MOVE_BAR,
        "50 ms",
    )
    for block, spent in knockouts(visit).items():
        middle = statistics.median(spent)
        told(
            f"knockout of a head of block {block}: median of {ABLATIONS}, worst",
            f"{1e3 * middle:.0f}, {1e3 * max(spent):.0f} ms",
            middle < CUT_BAR,
            "300 ms",
        )
    begun = time.perf_counter()
    memory, refused = exercise(visit, actions)
    growth = max(memory) / memory[0] - 1
    told(
        f"memory over {actions} random actions, from {memory[0]:.0f} MB",
        f"{growth:+.1%} at most",
        growth < GROWTH_BAR,
        "+10 %",
    )
    told("errors in the log", str(len(faults.messages)), not faults.messages, "0")
    for message in sorted(set(faults.messages)):
        print(f"    {message}")
    spent_on = time.perf_counter() - begun
    print(f"{refused} wishes were refused; {client.bytes / 2**20:.0f} MB sent; {spent_on:.0f} s")
    client.close()
    viewer.stop()


if __name__ == "__main__":
    main()
