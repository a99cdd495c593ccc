from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prob3r.models import VGGT, DUSt3R, DUSt3RConfig, MultiViewModel, Pi3
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation, Skip
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from prob3r.studies.middle_blocks import MODES, BlockWindow, MiddleBlocks, windows
from tests.models.examples import EXAMPLES, PI3_CONFIG, VGGT_CONFIG, drawn

DEPTH = 6
Profile = dict[str, list[float]]


def made(between: Profile, within: Profile, modes: tuple[str, ...] = MODES) -> pd.DataFrame:
    """Forty scenes with given losses by metric and by window, in any order, and some noise."""
    draw = np.random.default_rng(0)
    rows = []
    kinds = [("between", mode, between) for mode in modes] + [("within", "zero", within)]
    for kind, mode, profile in kinds:
        for metric, losses in profile.items():
            for start, loss in enumerate(losses):
                for pair in range(40):
                    noisy = loss + 0.001 * draw.standard_normal()
                    change = -noisy if "auc" in metric else np.expm1(noisy)
                    clean = 0.9 if "auc" in metric else 1.0
                    rows.append((kind, mode, start, 1, DEPTH, pair, metric, clean, change))
    columns = ["kind", "mode", "start", "size", "depth", "pair", "metric", "clean", "value"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)


def profile(auc: list[float], turn: list[float], shape: list[float]) -> Profile:
    cameras = {f"{teller} auc@30": auc for teller in ("stated", "points")}
    turned = {f"{teller} rotation_error": turn for teller in ("stated", "points")}
    return {**cameras, **turned, "shape_error": shape}


FLAT = profile([0.1] * DEPTH, [0.1] * DEPTH, [0.1] * DEPTH)
PEAK = profile([0, 0, 0.6, 0.1, 0, 0], [0, 0, 1, 1, 0.5, 0.5], [0, 0, 0.1, 0.1, 0, 0])
ENDS = profile([0.5, 0, 0.1, 0.1, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0.3, 0.3])


def found(between: Profile, within: Profile = FLAT) -> tuple[Finding, Finding]:
    middle, deep = MiddleBlocks().findings(made(between, within))
    return middle, deep


def test_a_peak_in_the_middle_and_a_deep_loss_of_pose_support_the_claims() -> None:
    middle, deep = found(PEAK)
    assert (middle.claim, middle.verdict) == ("N2", "supported")
    assert middle.effect == pytest.approx(0.6, abs=0.01)
    assert middle.control.startswith("the one from block 2 of 6 (from 0) is the costliest window")
    assert (deep.claim, deep.verdict) == ("N3", "supported")
    assert deep.effect == pytest.approx(0.5, abs=0.01)
    assert "cameras told by the points" in deep.control
    assert all(mode in deep.control for mode in MODES)


def test_a_peak_at_an_end_and_a_deep_loss_of_shape_refute_them() -> None:
    middle, deep = found(ENDS)
    assert (middle.verdict, deep.verdict) == ("not supported", "not supported")
    assert middle.effect == pytest.approx(-0.4, abs=0.01)
    assert deep.effect == pytest.approx(-0.3, abs=0.01)


def test_windows_that_do_not_differ_leave_them_open() -> None:
    assert [finding.verdict for finding in found(FLAT)] == ["mixed", "mixed"]


def test_a_middle_that_is_sensitive_to_every_cut_is_no_evidence() -> None:
    assert found(PEAK, PEAK)[0].verdict == "mixed"


def test_one_mode_alone_does_not_support_them() -> None:
    zero = made(PEAK, FLAT, ("zero",))
    others = made(FLAT, FLAT, ("mean", "resample"))
    table = pd.concat([zero, others[others.kind == "between"]], ignore_index=True)
    assert [f.verdict for f in MiddleBlocks().findings(table)] == ["mixed", "mixed"]


def test_without_other_scenes_two_modes_are_left() -> None:
    table = made(PEAK, FLAT, ("zero", "mean"))
    assert [f.verdict for f in MiddleBlocks().findings(table)] == ["supported", "supported"]


def test_thirds_go_by_the_centre_of_a_window() -> None:
    of_vggt = [BlockWindow("between", "zero", start, 4, 24).third for start in range(21)]
    assert of_vggt == [0] * 6 + [1] * 8 + [2] * 7
    assert [BlockWindow("between", "zero", start, 1, 3).third for start in range(3)] == [0, 1, 2]


BUILT: dict[str, Callable[[], MultiViewModel]] = {
    "vggt": lambda: drawn(VGGT(replace(VGGT_CONFIG, depth=3))),
    "pi3": lambda: drawn(Pi3(replace(PI3_CONFIG, depth=3))),
    "dust3r": lambda: drawn(DUSt3R(DUSt3RConfig((28, 28), 14, 16, 1, 2, 24, 3, 2))),
}


@pytest.mark.parametrize("name", BUILT)
def test_the_study_runs_and_its_figure_has_units(name: str) -> None:
    study, tested = MiddleBlocks(), ModelUnderTest(BUILT[name](), "m")
    study.choose_views(tested.model)
    study.check(tested)
    rooms = Rooms("test", (28, 28), compile=False, views=study.views)
    study.prepare(tested, rooms)
    table = study.measure(tested, rooms.batch([0, 1]))
    kinds = set(zip(table.kind, table["mode"], strict=True))
    assert kinds == {("between", mode) for mode in MODES} | {("within", "zero")}
    assert set(table.start) == {0, 1, 2}
    assert [finding.claim for finding in study.findings(table)] == ["N2", "N3"]
    drawn_windows = study.figures(table)["windows"]
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn_windows.axes)


def test_a_window_is_a_sixth_of_the_depth_in_all_views_and_modes() -> None:
    study, model = MiddleBlocks(), BUILT["vggt"]()
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    study.prepare(ModelUnderTest(model, "m"), rooms)
    assert study.means is not None
    edits = windows(model, rooms.batch([0, 1]), study.means)
    zero, mean = (edits[BlockWindow("between", mode, 2, 1, 3)] for mode in ("zero", "mean"))
    assert [type(edit) for edit in zero + mean] == [Skip, HeadAblation]
    assert {edit.site for edit in zero + mean} == {"dec*.2.global_attn"}
    assert {e.site for e in edits[BlockWindow("within", "zero", 2, 1, 3)]} == {"dec*.2.self_attn"}


def test_a_model_of_two_blocks_has_no_middle() -> None:
    with pytest.raises(LackingError, match="three blocks with attention between views or more"):
        MiddleBlocks().check(ModelUnderTest(EXAMPLES["vggt"](), "m"))
