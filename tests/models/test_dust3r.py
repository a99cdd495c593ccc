import json
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction
from prob3r.models.sites import Tap
from tests.models.conformance import CASES, Case

SMALL = DUSt3RConfig((32, 32), 16, 32, 2, 2, 24, 3, 2)


class Recorder(Tap):
    """Keeps every site it is shown, and rebuilds the attention."""

    def __init__(self) -> None:
        self.records: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        self.records[site] = tensor.clone()
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.records[site] = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        return super().attend(site, queries, keys, values)


def flat(output: Prediction) -> tuple[Tensor, ...]:
    return (*output.points, *output.confidence)


def run(model: DUSt3R, *images: Tensor, tap: Tap | None = None) -> Prediction:
    with torch.no_grad():
        return model(*images, tap=tap)


@pytest.fixture(scope="module")
def small() -> DUSt3R:
    torch.manual_seed(0)
    return DUSt3R(SMALL).eval()


@pytest.fixture(scope="module")
def tiny_run(
    tiny_model: DUSt3R, tiny_images: tuple[Tensor, Tensor]
) -> tuple[Prediction, dict[str, Tensor]]:
    tap = Recorder()
    return run(tiny_model, *tiny_images, tap=tap), tap.records


@pytest.mark.parametrize("name", CASES)
def test_every_value_is_that_of_the_official_model(name: str) -> None:
    case, tap = Case.read(name), Recorder()
    output = run(case.model(), *case.images(), tap=tap)
    names = ("pts3d_1", "pts3d_2", "conf_1", "conf_2")
    ours = tap.records | dict(zip(names, flat(output), strict=True))
    for key, golden in case.golden.items():
        torch.testing.assert_close(ours[key], golden, atol=1e-4, rtol=1e-4, msg=key)


def test_recording_changes_nothing(
    tiny_model: DUSt3R,
    tiny_images: tuple[Tensor, Tensor],
    tiny_run: tuple[Prediction, dict[str, Tensor]],
) -> None:
    plain = run(tiny_model, *tiny_images)
    assert all(map(torch.equal, flat(plain), flat(tiny_run[0])))


def test_sites_fire_as_listed(
    tiny_model: DUSt3R, tiny_run: tuple[Prediction, dict[str, Tensor]]
) -> None:
    fired = list(tiny_run[1])
    assert [name for name in fired if not name.endswith(".probs")] == tiny_model.sites()
    assert [name for name in fired if name.endswith(".probs")] == tiny_model.attention_sites()


def test_records_are_what_forward_hooks_see(
    tiny_model: DUSt3R,
    tiny_images: tuple[Tensor, Tensor],
    tiny_run: tuple[Prediction, dict[str, Tensor]],
) -> None:
    """Each site is the one before it plus the output of the module in between."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _, __, out: outputs.update({name: out}))

    handles = [
        keep(name, module)
        for name, module in tiny_model.named_modules()
        if re.fullmatch(r"(enc|dec)_blocks2?\.\d+(\.attn|\.cross_attn|\.mlp)?", name)
    ]
    run(tiny_model, *tiny_images)
    for handle in handles:
        handle.remove()

    records = tiny_run[1]
    for view, stack in ((1, "dec_blocks"), (2, "dec_blocks2")):
        stream = records[f"dec{view}.embed"]
        for i in range(4):
            for module, site in (("attn", "self_attn"), ("cross_attn",) * 2, ("mlp",) * 2):
                stream = stream + outputs[f"{stack}.{i}.{module}"]
                assert torch.equal(records[f"dec{view}.{i}.{site}"], stream)
            assert torch.equal(outputs[f"{stack}.{i}"], stream)
        encoded = torch.cat((records["enc1.embed"], records["enc2.embed"]))
        for i in range(3):
            for module, site in (("attn", "self_attn"), ("mlp", "mlp")):
                encoded = encoded + outputs[f"enc_blocks.{i}.{module}"]
                assert torch.equal(records[f"enc{view}.{i}.{site}"], encoded.chunk(2)[view - 1])


def test_attention_rows_sum_to_one(tiny_run: tuple[Prediction, dict[str, Tensor]]) -> None:
    for name, probs in tiny_run[1].items():
        if name.endswith(".probs"):
            torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:-1]))


def test_cross_attention_sees_the_other_view_as_it_entered_the_block(
    tiny_model: DUSt3R, tiny_images: tuple[Tensor, Tensor]
) -> None:
    class Break(Recorder):
        def __call__(self, site: str, tensor: Tensor) -> Tensor:
            return super().__call__(site, tensor * (0 if site == "dec1.1.self_attn" else 1))

    plain, broken = Recorder(), Break()
    run(tiny_model, *tiny_images, tap=plain)
    run(tiny_model, *tiny_images, tap=broken)

    def same(site: str) -> bool:
        return torch.equal(plain.records[site], broken.records[site])

    assert same("dec2.1.mlp")
    assert same("dec2.2.self_attn")
    assert not same("dec2.2.cross_attn")


@pytest.mark.parametrize("tap", [None, Recorder()], ids=["plain", "recorded"])
def test_views_may_differ_in_size(small: DUSt3R, tap: Tap | None) -> None:
    view1, view2 = torch.randn(2, 3, 48, 32), torch.randn(2, 3, 32, 64)
    output = run(small, view1, view2, tap=tap)
    assert [t.shape for t in output.points] == [(2, 48, 32, 3), (2, 32, 64, 3)]
    assert [t.shape for t in output.confidence] == [(2, 48, 32), (2, 32, 64)]
    if isinstance(tap, Recorder):
        assert set(tap.records) == {*small.sites(), *small.attention_sites()}
        assert tap.records["dec2.1.cross_attn.probs"].shape == (2, 2, 8, 6)


def test_views_of_one_size_may_be_encoded_apart(small: DUSt3R) -> None:
    view1, view2 = torch.randn(2, 1, 3, 48, 32)
    with torch.no_grad():
        encoded1, encoded2 = small.encode(view1), small.encode(view2)
        states = small.decode(encoded1, encoded2)
        apart = small.read(*states, encoded1.grid, encoded2.grid)
    for got, expected in zip(flat(apart), flat(run(small, view1, view2)), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_batch_items_do_not_mix(small: DUSt3R) -> None:
    view1, view2 = torch.randn(2, 3, 3, 32, 32)
    together = run(small, view1, view2)
    for i in range(3):
        alone = run(small, view1[i : i + 1], view2[i : i + 1])
        for got, expected in zip(flat(alone), flat(together), strict=True):
            torch.testing.assert_close(got[0], expected[i], atol=1e-5, rtol=1e-5)


def test_confidences_exceed_one(tiny_run: tuple[Prediction, dict[str, Tensor]]) -> None:
    assert all((c > 1).all() for c in tiny_run[0].confidence)


def test_heads_run_in_float32_under_autocast(small: DUSt3R) -> None:
    images = torch.randn(2, 1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(t.dtype == torch.float32 for t in flat(run(small, *images)))


def test_images_must_be_whole_patches(small: DUSt3R) -> None:
    with pytest.raises(Prob3rError, match="40x32 pixels; both sides must be multiples of 16"):
        run(small, *torch.randn(2, 1, 3, 40, 32))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"enc_depth": 0}, "enc_depth is 0"),
        ({"patch": -16}, "patch is -16"),
        ({"dec_heads": 5}, "dec_width is 24"),
        ({"enc_width": 36}, "enc_width is 36"),
        ({"head": "dpt", "patch": 8}, "patch is 8"),
        ({"rope_base": 0.0}, "rope_base is 0.0"),
        ({"rope_base": float("inf")}, "rope_base is inf"),
        ({"image_size": (32, 0)}, "image_size is (32, 0)"),
    ],
)
def test_configurations_that_cannot_be_built(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        replace(SMALL, **change)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"head": "conv"}, "head is 'conv'"),
        ({"enc_depth": 2.5}, "enc_depth is 2.5"),
        ({"dec_depth": None}, "dec_depth is None"),
        ({"rope_base": "100"}, "rope_base is '100'"),
        ({"image_size": [32]}, "image_size is [32]"),
        ({"image_size": 32}, "image_size is 32"),
        ({"image_size": [32, "32"]}, "image_size is"),
        ({"colour": 1}, "colour"),
    ],
)
def test_values_that_are_no_configuration(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        DUSt3RConfig.from_dict(SMALL.to_dict() | change)
    assert named in str(error.value)


def test_a_configuration_survives_json() -> None:
    assert DUSt3RConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert DUSt3RConfig.from_dict({"image_size": [32, 32]}) == DUSt3RConfig((32, 32))
    with pytest.raises(Prob3rError, match="image_size is missing"):
        DUSt3RConfig.from_dict({"patch": 16})
