import pytest
import torch

from prob3r.measures.modes import count_modes, critical_bandwidth, modality
from prob3r.measures.values import effective_rank, written
from prob3r.models.protocol import trunk
from prob3r.runs.trace import trace
from tests.models.examples import EXAMPLES
from tests.models.joint import scene


def test_a_rank_counts_the_directions_that_are_written() -> None:
    one = torch.outer(torch.tensor([1.0, 2.0, -3.0, 0.5]), torch.tensor([1.0, 1.0, 0.0]))
    assert effective_rank(one).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.eye(3)).item() == pytest.approx(3, abs=1e-4)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    two = torch.diag(torch.tensor([3.0, 1.0]))
    assert effective_rank(two).item() == pytest.approx(4 / 3**0.75, abs=1e-4)


@pytest.mark.parametrize("name", ["vggt", "pi3", "dust3r"])
def test_masses_are_those_of_the_map_and_shares_those_of_the_outputs(name: str) -> None:
    model = EXAMPLES[name]()
    views = scene(2).map(lambda image: image[..., :28, :28])
    sites = trunk(model).attention(2)
    found = written(model, views, sites)
    assert set(found) == {str(site) for site in sites}
    site = sites[1]
    names = [str(site.probs), str(site.read("heads"))]
    run = trace(model, views, names, output=False)
    probs, output = (torch.Tensor(run[name]) for name in names)
    here = found[str(site)]
    torch.testing.assert_close(here.mass, probs.mean(2))
    torch.testing.assert_close(here.rank, effective_rank(output), rtol=1e-3, atol=1e-3)
    # Norms are relative to the median; times the output's mean norm, a share gives them back.
    size = here.share / here.mass * output.norm(dim=-1).mean(-1, keepdim=True)
    torch.testing.assert_close(here.norm, size / size.median(-1, keepdim=True).values)
    assert here.share.sum(-1).min() > 0.99  # no less than the output, by the triangle inequality


def test_modes_are_counted() -> None:
    values = torch.tensor([[0.0, 0.1, 5.0, 5.1], [0.0, 0.1, 0.2, 0.3]]).double()
    assert count_modes(values, 0.5).tolist() == [2, 1]
    assert count_modes(values, 4.0).tolist() == [1, 1]
    found = critical_bandwidth(values[0])
    assert int(count_modes(values[:1], found)) == 1
    assert int(count_modes(values[:1], found / 1.05)) == 2


def test_two_heaps_are_told_from_one() -> None:
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(60, generator=draw)
    assert modality(one) > 0.1
    assert modality(torch.cat([one[:30], one[30:] + 6])) < 0.02
    assert modality(one[:4]) != modality(one[:4])  # NaN: too few
    assert modality(torch.ones(20)) != modality(torch.ones(20))
