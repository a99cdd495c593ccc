"""Odd photographs: each ends in a page in which no script runs, or in one sentence."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr
from html.parser import HTMLParser
from importlib import import_module
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from prob3r.measures.influence import Influence
from prob3r.models import Model
from prob3r.scenes.views import Views
from tests.cli.test_cli import CONFIG, EXPLAIN, files_of, here, model, run

__all__ = ["files_of", "here", "model"]

Make = Callable[[Path], Path]


def photograph(width: int = 48, height: int = 40) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def saved(name: str, change: Callable[[Image.Image], Image.Image], **options: object) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        change(photograph()).save(folder / name, **options)
        return folder / name

    return make


def linked(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.jpg")
    return folder / "pipe.jpg"


def listening(folder: Path) -> Path:
    path = folder / "socket.jpg"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the name of a socket may have 107 bytes
    return path


GIF = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
UNSPELLED = os.fsdecode(b"caf\xe9.png")


def same(image: Image.Image) -> Image.Image:
    return image


ZEROS = zlib.compress(bytes(10**8))
REFUSED = [
    ("a bomb of pixels", written("a.png", png(60_000, 60_000, chunk(b"IDAT", ZEROS))), "150 mega"),
    ("a bomb of text", written("a.png", png(48, 40, chunk(b"zTXt", b"a\0\0" + ZEROS))), "read"),
    ("a bomb of colours", written("a.png", png(48, 40, chunk(b"iCCP", b"a\0\0" + ZEROS))), "read"),
    ("a GIF of 4 gigapixels", written("a.gif", GIF), "150 mega"),
    ("a pipe", fifo, "is not a file"),
    ("a socket", listening, "is not a file"),
    ("an endless device", linked("zero.png", "/dev/zero"), "is not a file"),
    ("an empty device", linked("null.png", "/dev/null"), "is not a file"),
    ("a loop of links", linked("loop.png", "loop.png"), "does not exist"),
    ("a link to nothing", linked("gone.png", "nowhere.png"), "does not exist"),
    ("a process's memory", linked("mem.png", "/proc/self/mem"), "cannot be read"),
    ("a drawing with a script", written("a.svg", b"<svg onload='alert(1)'/>"), "is not an image"),
    ("a program", written("a.png", b"#!/bin/sh\ntouch ran\n"), "is not an image"),
    ("pixels of 32 bits", saved("a.tiff", lambda i: i.convert("F")), "32-bit"),
    ("one pixel", saved("a.png", lambda i: i.resize((1, 1))), "1x1 pixels"),
    ("a thread", saved("a.png", lambda i: i.resize((4000, 9))), "4000x9 pixels"),
    ("a missing one of no UTF-8", lambda folder: folder / UNSPELLED, "does not exist"),
]

TAGS = "<img src=x onerror=window.ran=1>"
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Title", "<script>window.ran=1</script>")
EXIF = Image.Exif()
EXIF[0x010E] = EXIF[0x013B] = "</script><script>window.ran=1</script>"
EXPLAINED = [
    ("scripts in its notes", saved("a.png", same, pnginfo=TEXT, exif=EXIF)),
    ("another kind than its name says", saved("a.txt", same, format="PNG")),
    ("tags", saved(f"{TAGS}.png", same)),
    ("a folder and a name that end the script", saved(f"a<//script>{TAGS}.png", same)),
    ("braces and quotes", saved("{{data}}\"'&lt;\\u003c`${1}.png", same)),
    ("control characters", saved("a\n\r\t\x1b[31m\x07\u202e.png", same)),
    ("no UTF-8", saved(UNSPELLED, same)),
]


def names(cases: list) -> list[str]:
    return [case[0] for case in cases]


@pytest.mark.parametrize(("kind", "make", "said"), REFUSED, ids=names(REFUSED))
def test_a_bad_photograph_ends_in_one_sentence(
    kind: str, make: Make, said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    path = make(here)
    made = sorted(here.iterdir())
    assert run(monkeypatch, "explain", "../a.png", str(path), *EXPLAIN) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"prob3r: {path.parent}")
    assert said in line
    assert sorted(here.iterdir()) == made


@pytest.fixture(scope="module")
def innocent(files_of: Path) -> list:
    """The elements of the page of two photographs that have nothing odd."""
    return Found.of(explained(files_of / "innocent", lambda folder: Path("../a.png")))


@pytest.fixture(scope="module")
def pages(files_of: Path) -> dict[str, str]:
    """The pages of odd photographs, by what is odd."""
    made = ((number, *case) for number, case in enumerate(EXPLAINED))
    return {kind: explained(files_of / f"odd{number}", make) for number, kind, make in made}


@pytest.mark.parametrize("kind", names(EXPLAINED))
def test_an_odd_photograph_ends_in_a_page_without_scripts_of_its_own(
    kind: str, pages: dict[str, str], innocent: list
) -> None:
    assert Found.of(pages[kind]) == innocent


def influences(model: Model, views: Views, report: object) -> list[Influence]:
    """Return that every patch decides the rotation alike: the pixels have no say in it."""
    maps = tuple(torch.ones(image[0, 0].numel() // CONFIG.patch**2) for image in views.images)
    return [Influence(2, "rotation", "degrees", "turned further", 1.0, maps)]


def explained(working: Path, make: Make) -> str:
    """Return the page of a photograph that is made in a new folder."""
    options = ("--out", "page.html", "--json", "numbers.json")
    working.mkdir()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.chdir(working)
        # Whether PnP finds a camera, of which one can ask what decides it, depends on the pixels.
        patch.setattr(import_module("prob3r.report.explain"), "influences", influences)
        assert run(patch, "explain", str(make(working)), "../b.jpg", *EXPLAIN, *options) == 0
    assert said.getvalue() == ""
    return (working / "page.html").read_text(encoding="utf-8")


class Found(HTMLParser):
    """The elements and attributes of a page, which photographs must not add to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attrs)))

    @classmethod
    def of(cls, page: str) -> list[tuple[str, tuple[str, ...]]]:
        parser = cls()
        parser.feed(page)
        # How many sentences there are depends on the pixels.
        return [element for element in parser.seen if element[0] != "li"]


@pytest.mark.browser
def test_no_script_of_a_photograph_runs(browser, pages: dict[str, str], tmp_path: Path) -> None:
    for kind, page in pages.items():
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        tab = browser.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("html[data-ready]")
        tab.wait_for_timeout(200)
        assert (tab.evaluate("window.ran"), errors) == (None, []), kind
        tab.close()
