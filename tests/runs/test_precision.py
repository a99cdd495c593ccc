import threading

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.runs import precision
from prob3r.runs.precision import Precision, choose, running_in, running_precision
from prob3r.runs.sweep import errors_of, sweep_heads
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, View
from tests.checks import every
from tests.models.examples import EXAMPLES

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)


@pytest.fixture
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    one, two = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    return Pair(View(one), View(two))


@pytest.mark.parametrize(
    ("asked", "hardware", "heavy", "expected"),
    [
        ("auto", True, True, "bfloat16"),
        ("auto", True, False, "float32"),
        ("auto", False, True, "float32"),
        ("float32", True, True, "float32"),
        ("bfloat16", False, False, "bfloat16"),
    ],
)
def test_auto_takes_bfloat16_for_heavy_work_on_hardware_that_has_it(
    monkeypatch: pytest.MonkeyPatch, asked: str, hardware: bool, heavy: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: hardware)
    assert choose(asked, "cpu", heavy=heavy) == expected


def test_an_unknown_precision_is_told_with_the_choices() -> None:
    with pytest.raises(Prob3rError, match="'half' is unknown; give one of auto, float32, bfloat16"):
        choose("half", "cpu", heavy=True)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_residual_streams_are_not_rounded(name: str) -> None:
    model = EXAMPLES[name]()
    patch = model.config.patch
    first, second = torch.randn(2, 1, 3, 2 * patch, 3 * patch)
    with running_in("bfloat16", model):
        records = trace(model, Pair(View(first), View(second)), model.sites(2))
    assert every(record.dtype == torch.float32 for record in records.values())
    blocks = [site for site in records if site.startswith("dec2.") and "embed" not in site]
    assert every((records[site].bfloat16() != records[site]).any() for site in blocks)


def test_products_run_in_bfloat16_and_the_heads_and_the_metrics_in_float32(
    model: DUSt3R, pair: Pair
) -> None:
    seen: list[bool] = []

    def metric(output: Prediction, views: Pair, clean: Prediction) -> dict[str, Tensor]:
        seen.append(torch.is_autocast_enabled("cpu"))
        return errors_of(output, views, clean)

    plain = trace(model, pair, ["dec2.*.cross_attn.probs", "dec2.1.mlp"])
    with running_in("bfloat16", model):
        half = trace(model, pair, ["dec2.*.cross_attn.probs", "dec2.1.mlp"])
        assert running_precision(model) == "bfloat16"
        sweep_heads(model, pair, metrics=metric)
    assert not any(seen)
    assert half["dec2.1.mlp"].dtype == half["dec2.1.cross_attn.probs"].dtype == torch.float32
    assert plain.output is not None
    assert half.output is not None
    for expected, got in zip(plain.output.points, half.output.points, strict=True):
        assert got.dtype == torch.float32
        assert not torch.equal(got, expected)
        torch.testing.assert_close(got, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_models_are_left_as_they_were(model: DUSt3R, pair: Pair, name: precision.Precision) -> None:
    before = trace(model, pair).output
    with running_in(name, model, model):
        trace(model, pair, ["dec2.0.mlp"], output=False)  # ends inside the forward
        assert not torch.is_autocast_enabled("cpu")
    after = trace(model, pair).output
    assert running_precision(model) == "float32"
    assert before is not None
    assert after is not None
    assert all(map(torch.equal, before.points, after.points))


def test_of_nested_contexts_the_innermost_counts(model: DUSt3R, pair: Pair) -> None:
    def run() -> tuple[str, Tensor]:
        output = trace(model, pair).output
        assert output is not None
        assert not torch.is_autocast_enabled("cpu")
        return running_precision(model), output.points[1]

    plain = run()
    with running_in("bfloat16", model):
        half = run()
        inner: list[tuple[Precision, tuple[str, Tensor]]]
        inner = [("bfloat16", half), ("float32", plain)]
        for name, expected in inner:
            with running_in(name, model):
                found = run()
            assert found[0] == expected[0] == name
            assert torch.equal(found[1], expected[1])
        again = run()
    assert again[0] == "bfloat16"
    assert torch.equal(again[1], half[1])
    assert not torch.equal(half[1], plain[1])


def test_other_threads_run_in_the_same_precision(model: DUSt3R, pair: Pair) -> None:
    found: list[Tensor] = []

    def run() -> None:
        output = trace(model, pair).output
        assert output is not None
        found.append(output.points[1])

    with running_in("bfloat16", model):
        run()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert torch.equal(*found)


@pytest.mark.parametrize("keep", [True, False])
def test_weights_are_rounded_once_where_they_are_kept(
    model: DUSt3R, pair: Pair, keep: bool
) -> None:
    with running_in("bfloat16", model, keep_rounded=keep):
        first = copies_of(model, pair)
        second = copies_of(model, pair)
    assert second < first if keep else second == first


def copies_of(model: DUSt3R, pair: Pair) -> int:
    """The conversions of tensors of a weight's shape in a forward."""
    shapes = [list(p.shape) for p in model.parameters() if p.ndim == 2]
    with torch.profiler.profile(record_shapes=True) as profiler:
        trace(model, pair)
    events = profiler.events() or ()
    return sum(e.name == "aten::_to_copy" and e.input_shapes[0] in shapes for e in events)
