from math import isnan

import pytest
import torch
from torch import Tensor

from prob3r.measures.arrows import Arrows
from prob3r.measures.reference import FINAL, TRUTH, Points, Reference
from prob3r.measures.steps import Step
from prob3r.report import Explanation

STEPS = [Step(None, "embed"), Step(0, "self_attn"), Step(0, "mlp"), Step(None, "output")]


def flat(x: float, z: float = 2.0) -> Tensor:
    """Two patches of two by two pixels, all at one place."""
    return torch.tensor([x, 0.0, z]).expand(1, 2, 4, 3).clone()


def reference(kind: str) -> Reference:
    """The truth lies one to the right."""
    every = torch.ones(1, 2, 4, dtype=torch.bool)
    return Reference((flat(1), flat(1)), (every, every), torch.eye(4).expand(1, 2, 4, 4), kind)


def walk(*seconds: Tensor) -> list[Points]:
    return [(flat(0), second) for second in seconds]


def test_a_step_to_the_truth_and_one_away_from_it() -> None:
    points = walk(flat(0), flat(0.5), flat(0.25), flat(1))
    found = Arrows.of(STEPS, points, reference(TRUTH), 2)
    assert found.means.shape == (4, 2, 3)
    assert found.means[:, 0, 0].tolist() == [0, 0.5, 0.25, 1]
    assert found.lengths[1:3] == pytest.approx([0.5, 0.25])
    assert found.alignments[1:3] == pytest.approx([1, -1])
    # Neither the input nor the output is the work of a sublayer.
    assert all(isnan(numbers[i]) for numbers in found[1:] for i in (0, 3))


def test_the_final_state_is_no_truth() -> None:
    found = Arrows.of(STEPS, walk(*map(flat, (0, 0.5, 0.5, 1))), reference(FINAL), 2)
    assert found.lengths[1:3] == pytest.approx([0.5, 0])
    assert all(map(isnan, found.alignments))


def test_what_is_not_finite_does_not_count() -> None:
    start, end = flat(0), flat(0.5)
    end[0, 0, 0] = torch.inf  # one pixel of the first patch
    end[0, :, 2:] = torch.nan  # all of the second
    found = Arrows.of(STEPS, walk(start, end, end, end), reference(TRUTH), 2)
    assert found.lengths[1] == pytest.approx(0.5)
    assert found.alignments[1] == pytest.approx(1)
    assert found.means[1].isfinite().all(dim=-1).tolist() == [True, False]


def test_what_comes_nearer_is_aligned(learning: Explanation) -> None:
    m = learning.measurements
    found = Arrows.of(
        m.steps, learning.measured.points, learning.measured.reference, m.provenance.patch
    )
    assert min(found.alignments[1:6]) > 0.3
