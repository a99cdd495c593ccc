"""Knockouts between views, in models whose views attend jointly, against slow references."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prob3r.models import MultiViewModel, Prediction
from prob3r.models.sites import Site
from prob3r.runs.edits import OWN_VIEW, PATCHES, Edit, Knockout, token, view
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes.views import Views
from tests.models.examples import EXAMPLES
from tests.models.test_architectures import close, random_views, run, tensors
from tests.runs.edits.conftest import Explicit

JOINT = ("depth-anything-3", "pi3", "vggt")
BLOCK = "1.global_attn"

Cut = Callable[[int, int, int, int], bool]
"""Whether an edge is cut: a query's view and place among its tokens, a key's view and place."""


@pytest.fixture(scope="module", params=JOINT)
def model(request: pytest.FixtureRequest) -> MultiViewModel:
    return EXAMPLES[request.param]()


@pytest.fixture(scope="module")
def views(model: MultiViewModel) -> Views:
    return random_views(model, 0)


def cases(model: MultiViewModel) -> dict[str, tuple[Edit, Cut]]:
    """Return edits, and the edges that each of them cuts, written out."""
    special = len(model.stacks["dec"].layout(1).special)
    site = f"dec*.{BLOCK}"
    first = model.stacks["dec"].layout(1).special[0]
    return {
        "view 2 does not see view 1": (
            Knockout(site, queries=view(2), keys=view(1)),
            lambda qv, q, kv, k: qv == 2 and kv == 1,
        ),
        "a special token of view 3 is seen by nobody": (
            Knockout(site, keys=token(first) & view(3)),
            lambda qv, q, kv, k: kv == 3 and k == 0,
        ),
        "special tokens see their own view alone": (
            Knockout(site, queries=token("*"), keys=~OWN_VIEW),
            lambda qv, q, kv, k: q < special and kv != qv,
        ),
        "all see their own view alone": (
            Knockout(site, keys=~OWN_VIEW),
            lambda qv, q, kv, k: kv != qv,
        ),
        "patches of other views are seen by nobody": (
            Knockout(site, keys=PATCHES & ~OWN_VIEW),
            lambda qv, q, kv, k: kv != qv and k >= special,
        ),
    }


def reference(model: MultiViewModel, views: Views, cut: Cut, mode: str) -> Prediction:
    """Run with every edge looked at, one by one."""

    def changed(name: str, tensor: Tensor) -> Tensor:
        site = Site.parse(name)
        if str(site.of(1)) != f"dec1.{BLOCK}.probs":
            return tensor
        tokens, mask = tensor.shape[2], torch.zeros(tensor.shape[2:], dtype=torch.bool)
        for query in range(tokens):
            for key in range(tensor.shape[3]):
                mask[query, key] = cut(site.view, query, key // tokens + 1, key % tokens)
        return tensor.masked_fill(mask, -torch.inf if mode == "mask" else 0)

    tap = Explicit(logits=changed) if mode == "mask" else Explicit(probs=changed)
    return run(model, views, tap)


@pytest.mark.parametrize("mode", ["mask", "zero"])
def test_knockouts_between_views_are_those_of_the_slow_reference(
    model: MultiViewModel, views: Views, mode: str
) -> None:
    clean = run(model, views)
    for name, (edit, cut) in cases(model).items():
        assert isinstance(edit, Knockout)
        moded = Knockout(edit.site, queries=edit.queries, keys=edit.keys, mode=mode)
        output = trace(model, views, edits=[moded]).output
        close(output, reference(model, views, cut, mode), (name, mode))
        pairs = zip(tensors(output), tensors(clean), strict=True)
        assert max((a - b).abs().max().item() for a, b in pairs) > 1e-4, name


def test_replay_and_sweep_are_runs_from_the_start(model: MultiViewModel, views: Views) -> None:
    replay, variants = Replay(model, views), {n: [edit] for n, (edit, _) in cases(model).items()}
    naive = {}
    for name, edits in variants.items():
        naive[name] = trace(model, views, edits=edits).output
        close(replay.run(edits).output, naive[name], name)

    def last(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
        return {"x": output.points[2][:, -1, -1, 0]}

    table = sweep(model, views, variants, last)
    for (name, scene), row in table.set_index(["variant", "pair"]).iterrows():
        output = naive[name]
        assert output is not None
        expected = output.points[2][scene, -1, -1, 0].item()
        assert row["value"] == pytest.approx(expected, rel=1e-5, abs=1e-5)
