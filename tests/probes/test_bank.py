import math

import pytest
import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.runs.trace import Record, trace
from prob3r.scenes import Pair, View

SITES = ("dec2.1.mlp", "dec1.embed", "dec2.0.cross_attn")


def bank_of(depth: int = 3, sites: tuple[str, ...] = SITES, seed: int = 0) -> ProbeBank:
    """A bank whose every weight is drawn, norms and biases too."""
    bank = ProbeBank(sites, ProbeConfig(24, 8, depth, width=10), seed=seed)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return bank


def alone(bank: ProbeBank, site: str) -> nn.Sequential:
    """One probe as plain modules."""
    row = bank.sites.index(site)
    norm = nn.LayerNorm(bank.config.stream)
    norm.load_state_dict({"weight": bank.norm_weight[row, 0], "bias": bank.norm_bias[row, 0]})
    layers: list[nn.Module] = [norm]
    for number, (weight, bias) in enumerate(zip(bank.weights, bank.biases, strict=True)):
        linear = nn.Linear(*weight.shape[1:])
        linear.load_state_dict({"weight": weight[row].T, "bias": bias[row, 0]})
        layers += [nn.GELU(), linear] if number else [linear]
    return nn.Sequential(*layers)


@pytest.fixture
def records(model: DUSt3R) -> dict[str, Record]:
    """Two pairs; the views are of 2x2 and of 1x3 patches."""
    return dict(
        trace(model, Pair(View(torch.rand(2, 3, 16, 16)), View(torch.rand(2, 3, 8, 24))), SITES)
    )


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("site", SITES)
def test_decoding_is_that_of_one_patch_at_a_time(
    records: dict[str, Record], depth: int, site: str
) -> None:
    bank, record = bank_of(depth), records[site]
    rows, columns = (2, 2) if site.startswith("dec1") else (1, 3)
    points = torch.zeros(2, 8 * rows, 8 * columns, 3)
    confidence = torch.zeros(2, 8 * rows, 8 * columns)
    probe = alone(bank, site)
    for b in range(2):
        for patch in range(rows * columns):
            raw = probe(record[b, patch]).detach().reshape(8, 8, 4)
            top, left = 8 * (patch // columns), 8 * (patch % columns)
            for y in range(8):
                for x in range(8):
                    xyz, logit = raw[y, x, :3], raw[y, x, 3].item()
                    size = xyz.norm().item()
                    points[b, top + y, left + x] = xyz / size * (math.exp(size) - 1)
                    confidence[b, top + y, left + x] = 1 + math.exp(logit)
    decoded = bank.decode(record)
    torch.testing.assert_close(decoded.points, points, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoded.confidence, confidence, atol=1e-5, rtol=1e-4)


def test_a_probe_sees_one_patch_alone(records: dict[str, Record]) -> None:
    bank, record = bank_of(), records["dec1.embed"]
    changed = record.clone()
    changed[1, 2] = torch.randn(24)
    before = bank.decode(record).points
    after = bank.decode(Record.of(changed, record.site, record.grid, record.tokens)).points
    moved = (before != after).any(-1)
    expected = torch.zeros(2, 16, 16, dtype=torch.bool)
    expected[1, 8:, :8] = True
    assert torch.equal(moved, expected)


def test_a_linear_probe_is_a_norm_and_one_layer() -> None:
    bank = ProbeBank(SITES, ProbeConfig(24, 8, depth=1))
    assert bank.kind == "linear"
    assert [tuple(w.shape) for w in bank.weights] == [(3, 24, 4 * 64)]
    streams = torch.randn(3, 7, 24)
    with torch.no_grad():
        normed = nn.functional.layer_norm(streams, (24,))
        torch.testing.assert_close(bank(streams).flatten(2), normed @ bank.weights[0])
    assert ProbeBank(SITES, ProbeConfig(24, 8)).kind == "mlp"
    assert len(ProbeBank(SITES, ProbeConfig(24, 8)).weights) == 5


def test_sites_run_together_as_they_run_apart() -> None:
    bank, streams = bank_of(), torch.randn(3, 7, 24)
    together = bank(streams)
    for row in range(3):
        torch.testing.assert_close(
            together[row : row + 1], bank(streams[row : row + 1], slice(row, row + 1))
        )


def test_initial_weights_depend_on_the_seed_and_the_site_alone() -> None:
    config = ProbeConfig(24, 8, depth=2, width=10)
    three = ProbeBank(SITES, config)
    torch.manual_seed(5)
    one, other = ProbeBank(SITES[1:2], config), ProbeBank(SITES[1:2], config, seed=1)
    for layer in range(2):
        assert torch.equal(one.weights[layer][0], three.weights[layer][1])
        assert not torch.equal(three.weights[layer][0], three.weights[layer][1])
        assert not torch.equal(one.weights[layer], other.weights[layer])
        assert one.weights[layer].abs().max() <= one.weights[layer].shape[1] ** -0.5


def test_half_precision_records_are_decoded_in_single(model: DUSt3R) -> None:
    pair = Pair(View(torch.rand(1, 3, 16, 16)), View(torch.rand(1, 3, 16, 16)))
    half = trace(model, pair, "dec1.embed", dtype=torch.float16)["dec1.embed"]
    assert bank_of().decode(half).points.dtype == torch.float32


@pytest.mark.parametrize(
    "sites", [(), ("dec2.0.cross_attn.probs",), ("dec2.0.mlp", "dec1.0.self_attn.probs")]
)
def test_a_bank_is_of_residual_sites(sites: tuple[str, ...]) -> None:
    with pytest.raises(Prob3rError, match="at least one site, and residual sites only"):
        ProbeBank(sites, ProbeConfig(24, 8))


def test_a_bank_is_of_sites_that_can_be() -> None:
    with pytest.raises(Prob3rError, match="'decoder' is not a site"):
        ProbeBank(["decoder"], ProbeConfig(24, 8))


def test_a_record_of_another_site_is_refused(model: DUSt3R) -> None:
    pair = Pair(View(torch.rand(1, 3, 16, 16)), View(torch.rand(1, 3, 16, 16)))
    run = trace(model, pair, ["dec1.0.mlp", "enc1.embed"])
    with pytest.raises(Prob3rError, match=r"no probe for 'dec1\.0\.mlp'; see `bank\.sites`"):
        bank_of().decode(run["dec1.0.mlp"])
    with pytest.raises(
        Prob3rError, match=r"'enc1\.embed' has a width of 16 here, .* a width of 24"
    ):
        bank_of(sites=("enc1.embed",)).decode(run["enc1.embed"])


def test_decoding_needs_no_gradient(records: dict[str, Record]) -> None:
    decoded = bank_of().decode(records["dec1.embed"])
    assert type(decoded.points) is Tensor
    assert not decoded.points.requires_grad
