"""CroCo v2 against the values of the official code, and what only CroCo does."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import (
    CroCo,
    CroCoConfig,
    CroCoFiles,
    DUSt3R,
    DUSt3RConfig,
    info,
    parse_model_string,
    random,
    read,
    save,
)
from prob3r.models.croco import completion_loss
from prob3r.models.sites import Tap
from tests.models.conformance import FOLDER, nview
from tests.models.test_checkpoints import write_shards
from tests.models.test_dust3r import Recorder

SMALL = CroCoConfig((32, 32), 16, 16, 1, 2, 24, 2, 2)
KEYWORDS = {
    "img_size": 32,
    "enc_embed_dim": 16,
    "enc_depth": 1,
    "enc_num_heads": 2,
    "dec_embed_dim": 24,
    "dec_depth": 2,
    "dec_num_heads": 2,
    "pos_embed": "RoPE100",
}
LARGE = {
    "enc_embed_dim": 1024,
    "enc_depth": 24,
    "enc_num_heads": 16,
    "dec_embed_dim": 768,
    "dec_num_heads": 12,
    "dec_depth": 12,
    "pos_embed": "RoPE100",
}


@pytest.fixture(scope="module")
def model() -> CroCo:
    return random(SMALL, seed=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CroCo:
    text = json.loads((FOLDER / "croco_tiny.keys.json").read_text())["model"]
    path = tmp_path_factory.mktemp("croco") / "tiny.pth"
    torch.save({"args": Namespace(model=text), "model": nview.weights("croco_tiny")}, path)
    loaded = read(path)
    assert isinstance(loaded, CroCo)
    return loaded


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return nview.golden("croco_tiny_2x96x96")


def pth(path: Path, weights: dict[str, Tensor], **keywords: object) -> Path:
    torch.save({"croco_kwargs": KEYWORDS | keywords, "model": weights, "epoch": 3}, path)
    return path


def hub(folder: Path, weights: dict[str, Tensor], **keywords: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(KEYWORDS | keywords))
    save_file(weights, folder / "model.safetensors")
    return folder


def close(got: Tensor, golden: Tensor, name: str) -> None:
    most = 1e-4 * golden.abs().max().item()
    torch.testing.assert_close(got, golden, rtol=0, atol=most, msg=lambda m: f"{name}: {m}")


def completed(model: CroCo, mask: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    tap = Recorder()
    with torch.no_grad():
        patches = model.complete(*nview.views(2, 2, 96, 96), mask, tap)
    return patches, tap.records


@torch.no_grad()
def test_every_value_is_that_of_the_official_model(tiny: CroCo, golden: dict[str, Tensor]) -> None:
    mask = golden["mask"]
    patches, records = completed(tiny, mask)
    full_patches, full = completed(tiny, None)
    found = {"pred": patches, "full.pred": full_patches, "mask": mask.float()}
    for prefix, sites in (("", records), ("full.", full)):
        decoder = {name.replace("dec1.", "dec."): t for name, t in sites.items()}
        found |= {prefix + name: tensor for name, tensor in decoder.items()}
        found[f"{prefix}dec.memory"] = sites["dec2.embed"]
        found[f"{prefix}dec.norm"] = tiny.dec_norm(sites["dec1.3.mlp"])
        for view in (1, 2):
            found[f"{prefix}enc_{view}"] = tiny.enc_norm(sites[f"enc{view}.2.mlp"])
    image, _ = nview.views(2, 2, 96, 96)
    plain, normalised = tiny.targets(image, normalised=False), tiny.targets(image)
    losses = (
        completion_loss(patches, normalised, mask),
        completion_loss(patches, plain, mask),
        completion_loss(full_patches, normalised),
    )
    found["losses"] = torch.stack(losses)
    for name, expected in golden.items():
        close(found[name], expected.float(), name)


def test_the_published_sizes_have_the_published_weights() -> None:
    content = json.loads((FOLDER / "croco_v2_vitl_base.keys.json").read_text())
    assert parse_model_string(content["model"]) == CroCoConfig((224, 224))
    with torch.device("meta"):
        expected = CroCo(CroCoConfig((224, 224))).state_dict()
    assert {n: list(t.shape) for n, t in expected.items()} == content["keys"]
    # Without a configuration, the published sizes are known by their weights.
    assert CroCoFiles().of_weights(expected) == CroCoConfig((224, 224))


def test_nothing_hidden_is_a_mask_that_hides_nothing(model: CroCo) -> None:
    images = torch.randn(2, 2, 3, 32, 48)
    with torch.no_grad():
        expected = model.complete(*images)
        got = model.complete(*images, mask=torch.zeros(2, 6, dtype=torch.bool))
    torch.testing.assert_close(got, expected)


def test_what_is_hidden_does_not_matter_and_the_rest_does(model: CroCo) -> None:
    image1, image2 = torch.randn(2, 2, 3, 32, 48)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, [0, 4]] = mask[1, [1, 2]] = True
    other = image1.clone()
    other[0, :, :16, :16] = other[1, :, :16, 16:48] = 0.5  # hidden patches only
    changed = image1.clone()
    changed[0, :, 16:, :16] += 1
    with torch.no_grad():
        patches = model.complete(image1, image2, mask)
        assert torch.equal(model.complete(other, image2, mask), patches)
        assert not torch.equal(model.complete(changed, image2, mask)[0], patches[0])
        assert torch.equal(model.complete(changed, image2, mask)[1], patches[1])
        assert not torch.equal(model.complete(image1, image2.flip(0), mask), patches)


def test_a_forward_completes_each_view_from_the_other(model: CroCo) -> None:
    image1, image2 = torch.randn(2, 2, 3, 32, 48)
    with torch.no_grad():
        output = model(image1, image2)
        alone = model.complete(image1, image2), model.complete(image2, image1)
    assert output.patches is not None
    for got, expected in zip(output.patches, alone, strict=True):
        torch.testing.assert_close(got, expected)


def test_views_may_differ_in_size(model: CroCo) -> None:
    with torch.no_grad():
        output = model(torch.randn(1, 3, 32, 48), torch.randn(1, 3, 32, 32))
    assert output.patches is not None
    assert [p.shape for p in output.patches] == [(1, 6, 768), (1, 4, 768)]


def test_targets_are_patches_of_normalised_colours(model: CroCo) -> None:
    image = torch.full((1, 3, 32, 48), -1.0)
    image[0, 1, 16 + 2, 32 + 3] = 1  # green, in the last patch, row 2, column 3
    targets = model.targets(image, normalised=False)
    assert targets.shape == (1, 6, 768)
    black = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(targets[0, 0].view(-1, 3), black.expand(256, 3))
    changed = (targets[0] != targets[0, 0]).nonzero()
    assert changed.tolist() == [[5, (2 * 16 + 3) * 3 + 1]]
    assert targets[0, 5, 106].item() == pytest.approx((1 - 0.456) / 0.224)
    normalised = model.targets(torch.rand(1, 3, 32, 48))
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(1, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(-1), torch.ones(1, 6), atol=1e-3, rtol=0)


def test_the_loss_is_of_the_hidden_patches() -> None:
    patches, targets = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    targets[0, 0], targets[0, 2] = 2, 3
    mask = torch.tensor([[True, True, False]])
    assert completion_loss(patches, targets, mask).item() == 2
    assert completion_loss(patches, targets).item() == pytest.approx(13 / 3)


def test_masks_hide_the_same_share_of_every_image(model: CroCo) -> None:
    images = torch.zeros(3, 3, 64, 80)
    masks = [model.draw_mask(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert masks[0].sum(1).tolist() == [18, 18, 18]  # of 20, at 0.9
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0][0], masks[0][1])


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (torch.zeros(2, 5, dtype=torch.bool), r"shape \(2, 5\); it must be boolean, of shape"),
        (torch.eye(2, 6) > 0.5 * torch.tensor([[1], [4]]), "hides 1, 0 of 6 patches"),
        (torch.ones(2, 6, dtype=torch.bool), "hides 6, 6 of 6 patches; .* and not all"),
    ],
)
def test_masks_that_do_not_fit(mask: Tensor, named: str, model: CroCo) -> None:
    with pytest.raises(Prob3rError, match=named):
        model.complete(*torch.randn(2, 2, 3, 32, 48), mask=mask)


def test_it_takes_a_pair_of_whole_patches(model: CroCo) -> None:
    with pytest.raises(Prob3rError, match="A CroCo takes 2 views, and there are 3"):
        model(*torch.randn(3, 1, 3, 32, 32))
    with pytest.raises(Prob3rError, match="40x32 pixels; both sides must be multiples of 16"):
        model.complete(*torch.randn(2, 1, 3, 40, 32))


def test_what_needs_pointmaps_is_told_that_there_are_none(model: CroCo) -> None:
    with torch.no_grad():
        output = model(*torch.randn(2, 1, 3, 32, 32))
    for use in (
        lambda: output.points[0],
        lambda: list(output.confidence),
        lambda: tuple(output.map(Tensor.double).points),
    ):
        with pytest.raises(Prob3rError, match="predicts no pointmaps"):
            use()
    doubled = output.map(Tensor.double).patches
    assert doubled is not None
    assert doubled[0].dtype == torch.float64
    with pytest.raises(Prob3rError, match="no linear head, which a lens needs"):
        model.lens_head()


def test_the_head_runs_in_float32_under_autocast(model: CroCo) -> None:
    images = torch.randn(2, 1, 3, 32, 32)
    mask = torch.tensor([[True, False, False, True]])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert model.complete(*images, mask).dtype == torch.float32
        assert model(*images).patches[0].dtype == torch.float32


def test_a_tap_changes_the_completion(model: CroCo) -> None:
    class Blind(Tap):
        """Removes what view 1 sees of view 2."""

        def __call__(self, site: str, tensor: Tensor) -> Tensor:
            return torch.zeros_like(tensor) if site == "dec2.embed" else tensor

    image1, image2 = torch.randn(2, 1, 3, 32, 48)
    with torch.no_grad():
        blind = model.complete(image1, image2, tap=Blind())
        assert torch.equal(blind, model.complete(image1, image1, tap=Blind()))
        assert not torch.equal(blind, model.complete(image1, image2))


class TestFiles:
    def test_all_layouts_give_the_same_model(self, model: CroCo, tmp_path: Path) -> None:
        weights = model.state_dict()
        save(model, tmp_path / "own.safetensors")
        for path in (
            pth(tmp_path / "a.pth", weights),
            hub(tmp_path / "hub", weights),
            write_shards(hub(tmp_path / "sharded", weights), weights),
            tmp_path / "own.safetensors",
        ):
            loaded = read(path)
            assert isinstance(loaded, CroCo)
            assert loaded.config == SMALL
            assert all(torch.equal(t, weights[n]) for n, t in loaded.state_dict().items())

    def test_the_published_keyword_arguments(self) -> None:
        content = {"croco_kwargs": LARGE, "model": {}}
        found = CroCoFiles().of_pickle(content)
        assert found is not None
        assert found[0] == CroCoConfig((224, 224))

    def test_info_needs_no_weights(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(LARGE))
        found = info(tmp_path)
        assert (found.architecture, found.config) == ("croco", CroCoConfig((224, 224)))
        assert found.parameters == 417_918_720

    @pytest.mark.parametrize(
        ("keywords", "named"),
        [
            ({"pos_embed": "cosine"}, "croco_kwargs must have pos_embed='RoPE100'"),
            ({"norm_im2_in_dec": False}, "norm_im2_in_dec=False; it must be True"),
            ({"mlp_ratio": 2}, "mlp_ratio=2; it must be 4"),
            ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
            ({"depth": 3}, "arguments that are not known: depth"),
            ({"dec_depth": 3}, "missing: dec_blocks.2"),
            ({"enc_embed_dim": 32}, "of another shape"),
        ],
    )
    def test_keyword_arguments_that_are_refused(
        self, keywords: dict[str, object], named: str, model: CroCo, tmp_path: Path
    ) -> None:
        with pytest.raises(Prob3rError) as error:
            read(pth(tmp_path / "a.pth", model.state_dict(), **keywords))
        assert named in str(error.value)
        assert "a.pth" in str(error.value)

    def test_a_checkpoint_of_another_architecture(self, model: CroCo, tmp_path: Path) -> None:
        twin: DUSt3R = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2))
        with pytest.raises(Prob3rError, match=r"missing: mask_token, prediction_head.*left over"):
            read(pth(tmp_path / "a.pth", twin.state_dict()))

    def test_weights_with_pointmap_heads_are_a_dust3r(self, tmp_path: Path) -> None:
        """Their configuration may say no more than the sizes."""
        twin: DUSt3R = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2))
        assert isinstance(read(hub(tmp_path / "hub", twin.state_dict())), DUSt3R)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"mask_ratio": "0.9"}, "mask_ratio is '0.9'"),
        ({"head": "linear"}, "head is not known of a CroCo"),
    ],
)
def test_values_that_are_no_configuration(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        CroCoConfig.from_dict(SMALL.to_dict() | change)
    assert named in str(error.value)


def test_a_configuration_survives_json() -> None:
    assert CroCoConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
