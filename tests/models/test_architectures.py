"""What holds for every registered architecture."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from prob3r.models import ARCHITECTURES, MultiViewModel, Prediction
from prob3r.models.sites import ATTENTION, Site, Tap
from prob3r.runs.edits import Attention, Edit, HeadAblation, Knockout, Skip, Transplant
from prob3r.runs.replay import Replay
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import View, Views
from prob3r.scenes.views import views_of
from tests.models.examples import EXAMPLES
from tests.runs.edits.conftest import Explicit, at

COMPILED_AGAINST_EAGER = """
import torch
from tests.models.examples import EXAMPLES

torch.set_num_threads(1)
torch.manual_seed(0)
for name, example in EXAMPLES.items():
    model = example()
    patch = model.config.patch
    images = torch.randn(2, 1, 3, 2 * patch, 3 * patch)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")(*images)
        eager = model(*images)
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled, eager, **close, msg=lambda text: f"{name}: {text}")
"""


@pytest.fixture(scope="module", params=sorted(EXAMPLES))
def model(request: pytest.FixtureRequest) -> MultiViewModel:
    return EXAMPLES[request.param]()


@pytest.fixture(scope="module")
def views(model: MultiViewModel) -> Views:
    return random_views(model, 0)


@pytest.fixture(scope="module")
def clean(model: MultiViewModel, views: Views) -> Prediction:
    return run(model, views)


@pytest.fixture(scope="module")
def every(model: MultiViewModel, views: Views) -> Trace:
    return trace(model, views, ["*", "*.probs", "*.heads"])


def random_views(model: MultiViewModel, seed: int) -> Views:
    """Return two scenes of as many views as the model takes, of three at most."""
    generator = torch.Generator().manual_seed(seed)
    count, patch = model.most_views or 3, model.config.patch
    images = 2 * torch.rand(count, 2, 3, 2 * patch, 3 * patch, generator=generator) - 1
    return views_of([View(image) for image in images])


def run(model: MultiViewModel, views: Views, tap: Tap | None = None) -> Prediction:
    with torch.no_grad():
        output: Prediction = model(*views.images, tap=tap)
    return output


def tensors(output: Prediction | None) -> list[Tensor]:
    """Return all that a model predicts."""
    found: list[Tensor] = []
    assert output is not None
    output.map(lambda tensor: found.append(tensor) or tensor)
    return found


def close(one: Prediction | None, other: Prediction | None, what: object) -> None:
    for got, expected in zip(tensors(one), tensors(other), strict=True):
        most = 1e-5 * max(1, expected.abs().max().item())
        torch.testing.assert_close(
            got, expected, rtol=1e-5, atol=most, msg=lambda text: f"{what}: {text}"
        )


def places(model: MultiViewModel, views: Views) -> Iterator[Site]:
    """Yield the last site of every kind: of every sublayer of every stack."""
    last: dict[tuple[str, str], Site] = {}
    for name in model.sites(views.count):
        site = Site.parse(name)
        last[site.stack, site.sublayer] = site
    yield from last.values()


def attention(model: MultiViewModel, views: Views) -> Iterator[Site]:
    return (site for site in places(model, views) if site.sublayer in ATTENTION)


def test_there_is_an_example_of_each() -> None:
    assert EXAMPLES.keys() == ARCHITECTURES.keys()
    assert all(example().architecture == name for name, example in EXAMPLES.items())


def test_every_site_fires_once_and_in_the_order_of_the_list(
    model: MultiViewModel, views: Views
) -> None:
    fired: list[str] = []

    class Listing(Tap):
        def __call__(self, site: str, tensor: Tensor) -> Tensor:
            fired.append(site)
            return tensor

        def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            fired.append(site)
            return super().attend(site, queries, keys, values)

    run(model, views, Listing())
    assert [site for site in fired if not site.endswith(".probs")] == model.sites(views.count)
    probs = [site for site in fired if site.endswith(".probs")]
    assert probs == model.attention_sites(views.count)


def test_streams_have_the_width_and_the_tokens_that_the_stacks_declare(
    model: MultiViewModel, every: Trace
) -> None:
    for name in every:
        site = Site.parse(name)
        if not site.reading:
            stack = model.stacks[site.stack]
            tokens = (6 if stack.patches else 0) + len(stack.layout(site.view).special)
            assert every[name].shape == (2, tokens, stack.width), name
            assert every[name].patches.shape[1] == (6 if stack.patches else 0)


def test_a_tap_that_reads_changes_no_bit(
    model: MultiViewModel, views: Views, clean: Prediction, every: Trace
) -> None:
    for tapped in (every.output, run(model, views, Tap()), trace(model, views, "*.mlp").output):
        assert all(map(torch.equal, tensors(tapped), tensors(clean)))


def test_attention_sums_to_one_and_is_what_the_model_computes(
    model: MultiViewModel, views: Views, clean: Prediction, every: Trace
) -> None:
    for name in model.attention_sites(views.count):
        probs = every[name]
        torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]), msg=name)
    close(run(model, views, Explicit()), clean, "explicit attention")


def test_knockouts_ablations_and_maps_do_what_their_references_do(
    model: MultiViewModel, views: Views, every: Trace, clean: Prediction
) -> None:
    for site in attention(model, views):
        name, keys = str(site.probs), every[str(site.probs)].shape[-1]

        def masked(logits: Tensor) -> Tensor:
            return logits.index_fill(3, torch.tensor([0]), -torch.inf)

        def zeroed(probs: Tensor) -> Tensor:
            return probs.index_fill(3, torch.tensor([0]), 0)

        def ablated(heads: Tensor) -> Tensor:
            return heads.index_fill(1, torch.tensor([1]), 0)

        def flattened(probs: Tensor) -> Tensor:
            return torch.full_like(probs, 1 / probs.shape[-1])

        cases: list[tuple[Edit, Tap]] = [
            (Knockout(name, keys=[0]), Explicit(logits=at(name, masked))),
            (Knockout(name, keys=[0], mode="zero"), Explicit(probs=at(name, zeroed))),
            (HeadAblation(name, heads=[1]), Explicit(heads=at(name, ablated))),
            (Attention.uniform(name, keys), Explicit(probs=at(name, flattened))),
        ]
        for edit, reference in cases:
            output = trace(model, views, edits=[edit]).output
            close(output, run(model, views, reference), (site, edit))
            pairs = zip(tensors(output), tensors(clean), strict=True)
            assert not all(map(torch.equal, *zip(*pairs, strict=True))), (site, edit)


def test_skips_and_transplants_do_what_their_references_do(
    model: MultiViewModel, views: Views, every: Trace
) -> None:
    foreign = trace(model, random_views(model, 1), "*")
    for site in places(model, views):
        name = str(site)

        def transplanted(stream: Tensor, name: str = name) -> Tensor:
            return torch.cat((foreign[name][:, :1], stream[:, 1:]), 1)

        edit: Edit = Transplant(name, foreign, patches=[0])
        expected = run(model, views, Explicit(stream=at(name, transplanted)))
        close(trace(model, views, edits=[edit]).output, expected, (site, edit))
        if site.block is not None:
            before = every[str(model.before(site))].as_subclass(Tensor)

            def skipped(stream: Tensor, before: Tensor = before) -> Tensor:
                return before

            expected = run(model, views, Explicit(stream=at(name, skipped)))
            close(trace(model, views, edits=[Skip(name)]).output, expected, (site, "skip"))


def edits_of(model: MultiViewModel, views: Views) -> Iterator[list[Edit]]:
    """Yield edits at every kind of site, alone and together."""
    foreign = trace(model, random_views(model, 1), "*")
    for site in places(model, views):
        source = {str(site): foreign[str(site)][:1]}
        yield [Transplant(str(site), source, patches=[0], scenes=[1])]
        yield [Transplant(str(site.of(1)), foreign)]
    for site in attention(model, views):
        yield [Knockout(str(site.of(1)), keys=[0])]
        yield [HeadAblation(str(site), heads=[0]), Skip("dec1.0.mlp", patches=[1])]


def test_a_replay_is_a_run_from_the_start(model: MultiViewModel, views: Views) -> None:
    replay = Replay(model, views, "*")
    for edits in edits_of(model, views):
        again, expected = replay.run(edits), trace(model, views, "*", edits)
        assert list(again) == list(expected)
        for site in expected:
            most = 1e-5 * max(1, expected[site].abs().max().item())
            torch.testing.assert_close(again[site], expected[site], rtol=1e-5, atol=most)
        close(again.output, expected.output, edits)


def test_variants_that_run_as_one_batch_are_those_that_run_alone(
    model: MultiViewModel, views: Views
) -> None:
    replay = Replay(model, views)
    rest: list[list[Edit]] = [[], [Skip("dec1.1.mlp")]]
    others = [tensors(replay.run(variant).output) for variant in rest]
    for edits in edits_of(model, views):
        stacked = tensors(replay.stack([edits, *rest]))
        alone = zip(tensors(replay.run(edits).output), *others, strict=True)
        for got, parts in zip(stacked, alone, strict=True):
            torch.testing.assert_close(got, torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_only_the_sublayers_that_an_edit_changes_run_again(
    model: MultiViewModel, views: Views
) -> None:
    """The first edit of a block leaves the other views alone up to where they meet."""
    replay = Replay(model, views, "*")
    last = model.stacks["dec"].blocks - 1
    run = replay.run([Skip(f"dec1.{last}.self_attn", patches=[0])])
    for site in run:
        place = Site.parse(site)
        early = place.stack == "enc" or (
            place.stack == "dec"
            and (
                place.block is None
                or place.block < last
                or (place.view > 1 and place.sublayer == "self_attn")
            )
        )
        assert (run[site] is replay.clean[site]) >= early, site


def test_all_compile_in_one_graph_and_compute_the_same() -> None:
    # In a process of its own, as the checks of shapes that run in tests cannot be traced. What
    # counts is the graph: to generate code for it would take minutes.
    subprocess.run([sys.executable, "-c", COMPILED_AGAINST_EAGER], check=True)
