import io
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import viser
from PIL import Image
from viser import _messages

from prob3r.errors import Prob3rError
from prob3r.viewer import uploads
from prob3r.viewer.session import Session
from prob3r.viewer.uploads import Uploads, limit


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(content, "PNG")
    return content.getvalue()


def test_uploads_make_a_scene_whose_names_are_only_words(tmp_path: Path, session) -> None:
    kept = Uploads(tmp_path)
    kept.add(viser.UploadedFile("a.png", png(50, 60)))
    with pytest.raises(Prob3rError, match="at least two"):
        kept.take()
    kept.add(viser.UploadedFile("../../etc/pass\\<b>.png", png(64, 48)))
    source = kept.take()
    assert source.names == ("a.png", "<b>.png")
    assert kept.names == []
    assert all(path.parent == tmp_path for path in source.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-view1", "0-view2"]
    views = source.views(session.probed.model)
    assert views.names == ("a, <b>",)
    assert "'a.png', '<b>.png'" in source.python
    session.open(source)
    assert session.experiment.images[0].shape == (48, 48, 3)


def bomb() -> bytes:
    """A PNG of 2 kB that says it has 3.6 gigapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    size = (60_000).to_bytes(4, "big")
    header = chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6)))


@pytest.mark.parametrize("content", [b"no image", bomb(), png(64, 64)[:90]])
def test_a_hostile_image_is_refused_and_the_session_stays(
    content: bytes, tmp_path: Path, session: Session
) -> None:
    kept, before = Uploads(tmp_path), session.experiment
    kept.add(viser.UploadedFile("a.png", png(64, 64)))
    kept.add(viser.UploadedFile("b.png", content))
    source = kept.take()
    with pytest.raises(Prob3rError):
        session.open(source)
    assert session.experiment is before


def test_another_upload_does_not_change_photographs_that_are_looked_at(tmp_path: Path) -> None:
    kept = Uploads(tmp_path)
    for colour in (64, 48):
        kept.add(viser.UploadedFile("a.png", png(colour, colour)))
    first = kept.take()
    before = [path.read_bytes() for path in first.files]
    kept.add(viser.UploadedFile("b.png", png(32, 32)))
    assert [path.read_bytes() for path in first.files] == before


def test_uploads_end_at_what_the_viewer_shows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "MOST_VIEWS", 2)
    kept = Uploads(tmp_path)
    for _ in range(2):
        kept.add(viser.UploadedFile("a.png", png(32, 32)))
    with pytest.raises(Prob3rError, match="There are 2 photographs"):
        kept.add(viser.UploadedFile("a.png", png(32, 32)))


@pytest.mark.parametrize("size", [0, 1001])
def test_uploads_have_a_size(size: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "LIMIT", 1000)
    with pytest.raises(Prob3rError, match=f"{size} bytes"):
        Uploads(tmp_path).add(viser.UploadedFile("a.png", bytes(size)))
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_dropped_while_they_come() -> None:
    handlers: dict = {}
    states = {name: {"transferred_bytes": 0} for name in ("small", "large")}
    gui = Mock(viser.GuiApi, _current_file_upload_states=states)
    gui._websock_interface = SimpleNamespace(register_handler=handlers.__setitem__)
    limit(gui, 1000)
    for name, size in (("small", 1000), ("large", 1001)):
        message = SimpleNamespace(transfer_uuid=name, size_bytes=size)
        handlers[_messages.FileTransferStartUpload](
            0, Mock(_messages.FileTransferStartUpload, **vars(message))
        )
    assert list(states) == ["small"]
    part = Mock(_messages.FileTransferPart)
    handlers[_messages.FileTransferPart](0, part)
    assert list(states) == ["small"]
    states["small"]["transferred_bytes"] = 2001  # of which it did not speak
    handlers[_messages.FileTransferPart](0, part)
    assert states == {}
