import json
from itertools import pairwise
from math import isnan
from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.measures.attention import chance
from prob3r.measures.errors import METRICS
from prob3r.measures.reference import FINAL, TRUTH, TRUTH_BY_PNP
from prob3r.measures.steps import Step, trunk_steps
from prob3r.models import random
from prob3r.models.protocol import trunk
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.report import Explanation, explain, write_json
from prob3r.scenes import Pair, stack
from tests.report.conftest import PAIRS
from tests.report.stand_ins import CONFIG, KnowingModel, KnowingProbes, random_probes, truth


def test_what_is_right_has_no_error(knowing: Explanation) -> None:
    curves = knowing.measurements.curves
    assert knowing.measurements.provenance.reference == TRUTH
    for view in (1, 2):
        for metric in METRICS:
            values = [v for v in curves[view][metric] if not isnan(v)]
            assert len(values) == (0 if (view, metric) == (1, "translation_error") else 11)
            assert all(abs(v) < (0.1 if metric.endswith("n_error") else 1e-3) for v in values)
    final = knowing.measurements.final
    assert final.inliers > 0.99
    assert final.probe_gap < 1e-6


def test_the_reconstruction_has_the_true_cameras(knowing: Explanation, room: Pair) -> None:
    pose = torch.tensor(knowing.measurements.final.camera2_to_1)
    true = knowing.measured.reference.poses[0, 1]
    torch.testing.assert_close(pose, true, atol=2e-3, rtol=0)
    torch.testing.assert_close(knowing.measured.poses[-1, 1], true, atol=2e-3, rtol=0)
    angle = float(rotation_angle(true[None, :3, :3]))
    assert knowing.measurements.final.rotation == pytest.approx(angle, abs=0.2)
    assert knowing.measurements.final.focal == pytest.approx(float(room.view1.intrinsics[0, 0, 0]))


def test_without_intrinsics_the_focal_length_is_read_off_view_1(room: Pair) -> None:
    bare = Pair.from_images([PAIRS / "books/view1.jpg", PAIRS / "books/view2.jpg"], random(CONFIG))
    model = KnowingModel(room)
    explanation = explain(model, bare, KnowingProbes(model, truth(room)), model_name="m")
    final = explanation.measurements.final
    assert final.focal == pytest.approx(float(room.view1.intrinsics[0, 0, 0]), rel=1e-3)
    angle = float(rotation_angle(room.view2_to_view1[:, :3, :3]))
    assert final.rotation == pytest.approx(angle, abs=0.5)
    assert explanation.measurements.provenance.reference == FINAL
    assert max(explanation.measurements.curves[2]["rotation_error"]) < 0.1


def test_errors_fall_along_the_sites(learning: Explanation) -> None:
    for metric in ("rotation_error", "shape_error", "pointmap_error"):
        curve = learning.measurements.curves[2][metric]
        assert all(after < before + 1e-4 for before, after in pairwise(curve))
        assert curve[0] > 0.1
    assert 45 < learning.measurements.curves[2]["rotation_error"][0] < 75


def test_without_truth_all_is_against_the_final_state(guessing: Explanation) -> None:
    m = guessing.measurements
    assert m.provenance.reference == FINAL
    assert {kind for kinds in m.against.values() for kind in kinds.values()} == {FINAL}
    ends = [m.curves[2][metric][-1] for metric in METRICS if metric != "translation_error"]
    assert max(ends) < 0.1
    assert isnan(m.final.true_overlap)
    assert all(isnan(head.true_matches) for head in m.heads)


def test_with_cameras_and_one_depth_each_number_has_the_best_reference() -> None:
    model = random(CONFIG)
    pair = Pair.from_folder(PAIRS / "aloe", model)
    m = explain(model, pair, random_probes(model), model_name="m").measurements
    assert set(m.against[1].values()) == {TRUTH}
    assert m.against[2]["rotation_error"] == m.against[2]["translation_error"] == TRUTH_BY_PNP
    assert m.against[2]["shape_error"] == m.against[2]["scale_error"] == FINAL
    assert m.curves[1]["pointmap_error"][-1] > 0.01


def test_heads_that_look_at_the_matches_agree_with_them(knowing: Explanation) -> None:
    heads = knowing.measurements.heads
    assert [(h.block, h.head) for h in heads] == [(b, k) for b in range(3) for k in (0, 1, None)]
    assert all(h.agreement == h.true_matches == 1 for h in heads)
    entropies = [h.entropy for h in heads if h.head == 0]
    assert entropies == sorted(entropies, reverse=True)
    assert 0 < entropies[-1] < entropies[0] < 1


def test_kept_attention_is_the_attention(knowing: Explanation) -> None:
    assert list(knowing.measured.attention) == [(1, 2), (2, 1)]
    for kept in knowing.measured.attention.values():
        assert kept.probs.shape == (3, 3, 36, 36)
        torch.testing.assert_close(kept.probs.sum(-1), torch.ones(3, 3, 36))
        assert (kept.probs.diff(dim=-1) <= 0).all()
        dense = torch.zeros_like(kept.probs).scatter(-1, kept.keys, kept.probs)
        torch.testing.assert_close(dense[:, -1], dense[:, :-1].mean(1))


def test_chance_counts_the_patches_around_every_match() -> None:
    assert chance((1, 1)) == 1
    assert chance((3, 3)) == pytest.approx(((2 + 3 + 2) / 9) ** 2)
    assert chance((2, 5)) == pytest.approx(1 * (2 + 3 + 3 + 3 + 2) / 25)


def test_steps_are_the_sites_of_both_views_in_order() -> None:
    sites = ["enc1.embed", "dec1.embed", "dec2.embed", "dec2.0.mlp", "dec1.1.mlp", "dec2.1.mlp"]
    stack, shape = trunk(random(CONFIG)), ProbeConfig(32, 8, 1)
    assert trunk_steps(ProbeBank(sites, shape), stack, 2) == [Step(None, "embed"), Step(1, "mlp")]
    with pytest.raises(Prob3rError, match="no site of all views in the decoder"):
        trunk_steps(ProbeBank(["enc1.embed", "dec2.0.mlp"], shape), stack, 2)


def test_probes_of_view_2_read_all_views_after_it() -> None:
    bank = ProbeBank(["dec1.embed", "dec2.embed", "dec2.0.mlp"], ProbeConfig(32, 8, 1))
    assert bank.reads("dec3.embed")
    assert not bank.reads("dec1.0.mlp")
    assert trunk_steps(bank, trunk(random(CONFIG)), 4) == [Step(None, "embed")]


def test_the_json_holds_a_row_for_every_site_and_view(
    guessing: Explanation, tmp_path: Path
) -> None:
    path = tmp_path / "numbers.json"
    write_json(guessing, path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert list(content) == [
        "setting",
        "final",
        "against",
        "sites",
        "heads",
        "reliability",
        "check",
        "influence",
        "happened",
        "trust",
    ]
    assert content["setting"]["pair"] == "books"
    assert len(content["sites"]) == 22
    assert content["sites"][1] == content["sites"][1] | {
        "site": "dec1.0.self_attn", "view": 1, "block": 0, "sublayer": "self_attn",
    }  # fmt: skip
    assert content["sites"][-1]["site"] == "output"
    assert set(METRICS) < set(content["sites"][0])
    assert content["final"]["true_overlap"] is None
    assert {row["head"] for row in content["heads"]} == {0, 1, None}
    assert all(set(s) == {"text", "tone"} for s in content["happened"] + content["trust"])


def test_progress_goes_from_none_to_all(room: Pair) -> None:
    model, seen = KnowingModel(room), []
    probes = KnowingProbes(model, truth(room))
    explain(model, room, probes, model_name="m", progress=lambda what, share: seen.append(share))
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)


def test_a_batch_and_a_foreign_bank_are_refused(room: Pair) -> None:
    model = KnowingModel(room)
    probes = KnowingProbes(model, truth(room))
    with pytest.raises(Prob3rError, match="batch of 2"):
        explain(model, stack([room, room]), probes, model_name="m")
    foreign = ProbeBank(["dec1.7.mlp", "dec2.7.mlp"], ProbeConfig(32, 8, 1))
    with pytest.raises(Prob3rError, match=r"dec1\.7\.mlp"):
        explain(model, room, foreign, model_name="m")


def test_the_same_pair_gives_the_same_numbers(learning: Explanation, room: Pair) -> None:
    model = KnowingModel(room)
    again = explain(model, room, KnowingProbes(model, truth(room), 1.2), model_name="learning")
    first, second = learning.to_json(), again.to_json()
    for key in ("final", "sites", "happened", "trust"):
        assert first[key] == second[key]


def test_the_model_runs_once_and_once_for_all_gradients(room: Pair) -> None:
    model = KnowingModel(room)
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    explain(model, room, KnowingProbes(model, truth(room)), model_name="m")
    assert len(runs) == 1 + 1  # the rotation and the distance of camera 2 share one
