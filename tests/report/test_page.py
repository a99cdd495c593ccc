import base64
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from prob3r.measures.reference import FINAL, METRICS
from prob3r.models import DUSt3RConfig, random
from prob3r.report import Explanation, explain
from prob3r.report.encode import NOWHERE, encode
from prob3r.report.page import page
from prob3r.scenes import Pair, View
from tests.report.stand_ins import random_probes


def carried(html: str) -> dict:
    """What the page carries for its scripts."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def halves(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f2").astype("f4")


def test_the_page_needs_nothing_else(knowing: Explanation) -> None:
    html = page(knowing)
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert not re.search(r"@import|url\((?!data:)|\bfetch\(|XMLHttpRequest|import\(", html)
    assert set(re.findall(r"https?://[\w./]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "{{" not in html


def test_the_same_explanation_gives_the_same_page(knowing: Explanation) -> None:
    assert page(knowing) == page(knowing)


def test_every_sentence_is_on_the_page(guessing: Explanation) -> None:
    text = re.sub("&#x27;", "'", page(guessing))
    for sentence in guessing.happened + guessing.trust:
        assert sentence.text in text


def test_names_are_text_and_nothing_more(knowing: Explanation) -> None:
    m = knowing.measurements
    nasty = replace(m.provenance, pair="</script><script>alert(1)</script>{{style}}", model="<b>&")
    html = page(
        replace(
            knowing, measured=knowing.measured._replace(measurements=replace(m, provenance=nasty))
        )
    )
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{style}}" in html
    assert "&lt;b&gt;&amp;" in html


def test_points_and_attention_survive_the_page(learning: Explanation) -> None:
    data = carried(page(learning))
    assert data["sites"]["stride"] == data["final"]["stride"] == 1
    points = halves(data["sites"]["points"][1]).reshape(11, 48, 48, 3)
    for step in (0, 5, 10):
        true = learning.measured.points[step][1][0].numpy()
        np.testing.assert_allclose(points[step], true, rtol=1e-3, atol=1e-4)
    kept = data["attention"][1]
    assert kept["kept"] == pytest.approx(1)
    shape = (kept["blocks"], kept["heads"] + 1, kept["queries"], kept["top"])
    probs = np.frombuffer(base64.b64decode(kept["probs"]), "u1").reshape(shape)
    keys = np.frombuffer(base64.b64decode(kept["keys"]), "<u2").reshape(shape)
    expected = learning.measured.attention[2, 1]
    np.testing.assert_array_equal(keys, expected.keys.numpy())
    np.testing.assert_allclose((probs / 255.0) ** 2, expected.probs.numpy(), atol=0.005)


def test_arrows_begin_where_the_step_before_ends(learning: Explanation) -> None:
    data = carried(page(learning))["arrows"][0]
    means = halves(data["means"]).reshape(11, 36, 3)
    points = halves(carried(page(learning))["sites"]["points"][1]).reshape(11, 48, 48, 3)
    patch = points[:, 8:16, 40:48].mean((1, 2))  # row 1, column 5
    np.testing.assert_allclose(means[:, 11], patch, rtol=2e-3, atol=1e-3)
    moves = np.linalg.norm(np.diff(means, axis=0), axis=-1).mean(1)
    assert data["lengths"][0] is data["lengths"][10] is data["alignments"][10] is None
    np.testing.assert_allclose(data["lengths"][1:10], moves[:9], atol=2e-3)


def test_what_is_not_finite_is_nowhere(knowing: Explanation) -> None:
    one, two = (p.clone() for p in knowing.measured.points[-1])
    two[0, 0, 0] = torch.nan
    two[0, 0, 1] = torch.inf
    data = encode(
        replace(
            knowing,
            measured=knowing.measured._replace(points=[*knowing.measured.points[:-1], (one, two)]),
        )
    )
    points = halves(data["final"]["points"][1]).reshape(48, 48, 3)
    assert (points[0, :2] == np.float16(NOWHERE)).all()
    assert (np.abs(points[0, 2:]) < 100).all()


def test_a_large_model_s_page_is_still_small(tmp_path: Path) -> None:
    config = DUSt3RConfig((384, 512), 16, 16, 1, 4, 16, 12, 4)
    model, generator = random(config), torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 3, 384, 512, generator=generator) * 2 - 1
    pair = Pair(View(images[0]), View(images[1]))
    html = page(_explained_fast(model, pair))
    data = carried(html)
    assert len(html) < 15e6
    assert 1 <= data["attention"][0]["top"] < 768
    assert data["sites"]["stride"] > 1
    assert len(data["steps"]) == 38


def _explained_fast(model, pair: Pair) -> Explanation:
    """An explanation whose curves nobody waits for."""
    module = import_module("prob3r.measures.measurements")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "errors_by_step", _nothing_measured)
        patch.setattr(module, "_poses", lambda points, _: torch.eye(4).repeat(len(points), 2, 1, 1))
        return explain(model, pair, random_probes(model), model_name="large")


def _nothing_measured(pair, steps, reference):
    curves = {view: {metric: [0.0] * len(steps) for metric in METRICS} for view in (1, 2)}
    return curves, {view: dict.fromkeys(METRICS, FINAL) for view in (1, 2)}
