"""Too many views for the memory that is free: told before the run, with how many fit."""

import re
from pathlib import Path

import pytest
import torch

from prob3r.cost.fit import check_fits, free_memory, run_memory
from prob3r.errors import Prob3rError
from prob3r.models import VGGT, VGGTConfig
from prob3r.models.sites import Site
from prob3r.report.explain import explain
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import views_of
from prob3r.training.probes import bank_for
from tests.models.examples import EXAMPLES
from tests.models.joint import joint_model

SIZE = (28, 42)


@pytest.fixture(scope="module")
def model() -> VGGT:
    made = EXAMPLES["vggt"]()
    assert isinstance(made, VGGT)
    return made


def test_a_run_takes_what_its_tensors_take(model: VGGT) -> None:
    """Records add what they take, roughly, and a view more takes more."""
    sites = model.sites(3)
    views = views_of([View(torch.randn(1, 3, *SIZE)) for _ in range(3)])
    records = sum(record.nbytes for record in trace(model, views, sites).values())
    plain, recorded = run_memory(model, 3, SIZE), run_memory(model, 3, SIZE, sites)
    assert plain + 0.5 * records < recorded < plain + 1.5 * records
    assert run_memory(model, 4, SIZE) > plain


def test_the_sentence_says_how_many_fit(model: VGGT) -> None:
    free = run_memory(model, 5, SIZE) + 1
    with pytest.raises(Prob3rError) as error:
        check_fits(model, 9, SIZE, free=free)
    assert re.fullmatch(
        r"9 views of 42x28 pixels take \d\.\d GiB, and \d\.\d GiB are free; 5 views fit\.",
        str(error.value),
    )
    check_fits(model, 5, SIZE, free=free)
    with pytest.raises(Prob3rError, match="not even two views fit; choose smaller images"):
        check_fits(model, 3, SIZE, free=1000)


def test_records_count_and_attention_does_not(model: VGGT) -> None:
    free = run_memory(model, 3, SIZE) + 1
    check_fits(model, 3, SIZE, ["dec1.0.global_attn.probs"], free=free)
    with pytest.raises(Prob3rError, match="take"):
        check_fits(model, 3, SIZE, model.sites(3), free=free)


def test_models_of_other_code_are_not_counted() -> None:
    check_fits(joint_model(), 40, SIZE, free=0)


def test_what_is_free_is_what_the_system_says() -> None:
    free = free_memory(torch.device("cpu"))
    assert (free is not None) == Path("/proc/meminfo").exists()
    assert free is None or 2**20 < free < 2**50


def test_vggt_records_one_view_of_four_within_a_fifth_of_its_size() -> None:
    """VGGT-1B on four photographs at 224; nothing is computed."""
    with torch.device("meta"):
        model = VGGT(VGGTConfig())
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    sites = [site for site in model.sites(4) if Site.parse(site).view == 2]
    assert run_memory(model, 4, (224, 224), sites) < 0.2 * weights


def test_explain_asks_before_it_runs(model: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.cost.fit.free_memory", lambda device: 1000)
    views = views_of([View(torch.randn(1, 3, *SIZE)) for _ in range(3)])
    _, bank = bank_for(model, "linear")
    with pytest.raises(Prob3rError, match="not even two views fit"):
        explain(model, views, bank, model_name="small")
