import io

import numpy as np
import pytest
import torch
from PIL import Image

from prob3r import trace
from prob3r.viewer import saving
from prob3r.viewer.ablations import HEAD, Ablation
from prob3r.viewer.session import Session


@pytest.fixture
def cut_session(session: Session) -> Session:
    session.ablate(Ablation(HEAD, "zero", 1, head=1))
    return session


def test_what_is_explained_is_the_present_state(cut_session: Session) -> None:
    explained = saving.explanation(cut_session)
    name = "random0 without head 1 of block 1's cross-attention, view 2 (zero)"
    assert explained.measurements.provenance.model == name
    model, pair = cut_session.probed.model, cut_session.experiment.views
    output = trace(model, pair, "dec2.*", cut_session.edits).output
    assert output is not None
    expected = explained.measured.reference.normalise(output.points)[1]
    torch.testing.assert_close(explained.measured.points[-1][1], expected)


def test_the_points_are_those_of_the_output(cut_session: Session) -> None:
    header, _, body = saving.ply(cut_session).partition(b"end_header\n")
    assert f"element vertex {2 * 48 * 48}".encode() in header
    first = np.frombuffer(body, "<f4", 3)
    np.testing.assert_allclose(first, cut_session.run.points[0][-1, 0, 0], rtol=1e-5)


def test_a_recording_leaves_the_session_where_it_was(session: Session) -> None:
    place = session.timeline.position
    content = saving.recording(session)
    assert len(content) > 10_000
    assert session.timeline.position == place


def test_a_picture_is_put_on_white() -> None:
    render = np.zeros((2, 3, 4), np.uint8)
    render[0, 0] = (255, 0, 0, 255)
    picture = Image.open(io.BytesIO(saving._on_white(render)))
    assert picture.size == (3, 2)
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert picture.getpixel((2, 1)) == (255, 255, 255)
