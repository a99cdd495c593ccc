"""Banks in closed form: what they say, on what they are fitted, and that every view counts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import normalise, patchify
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random
from prob3r.models.heads import compress_points, expand_points
from prob3r.models.protocol import predicts_pointmaps, trunk
from prob3r.probes import RidgeBank, backbone_of, load_probes, save_probes
from prob3r.probes import settings as settings_module
from prob3r.probes.fit import FitCost, Fitting, fit_banks, fit_together
from prob3r.probes.scenes import ROOMS, FitScenes, fit_scenes
from prob3r.probes.settings import FitSettings, groups, patch_share, scenes_for
from prob3r.probes.targets import TRUTH, WHOSE
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Subset
from tests.models.examples import EXAMPLES

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)


@pytest.fixture(scope="module", autouse=True)
def _all_patches() -> Iterator[None]:
    """Models as small as these would be thinned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_module, "LEAST_SHARE", 1.0)
        yield


@pytest.fixture(scope="module")
def backbone() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def chosen(backbone: DUSt3R) -> FitScenes:
    return fit_scenes(ROOMS, backbone, 24)


@pytest.fixture(scope="module")
def banks(backbone: DUSt3R, chosen: FitScenes) -> list[RidgeBank]:
    return fit_banks(backbone, chosen, FitSettings())


def bank_of(banks: list[RidgeBank], kind: str, whose: str) -> RidgeBank:
    (found,) = (b for b in banks if b.kind == kind and b.fit and b.fit.whose == whose)
    return found


def whole_patches(valid: Tensor) -> Tensor:
    """Of which patches the truth is known in every pixel, `(b, n)`."""
    return patchify(valid.float()[..., None], 8).flatten(2).all(-1)


def test_the_last_probe_of_the_own_output_is_the_linear_head(
    backbone: DUSt3R, banks: list[RidgeBank]
) -> None:
    bank = bank_of(banks, "ridge", "own")
    held = Rooms("test", (32, 32), compile=False).batch(range(4))
    run = trace(backbone, held, ["dec1.1.mlp", "dec2.1.mlp"])
    assert run.output is not None
    for view in (1, 2):
        read = bank.decode(run[f"dec{view}.1.mlp"])
        true = run.output.points[view - 1]
        distance = (read.points - true).norm(dim=-1) / true.norm(dim=-1).mean()
        assert distance.max() < 1e-3
        sure = run.output.confidence[view - 1]
        torch.testing.assert_close(read.confidence, sure, atol=1e-3, rtol=1e-3)


def test_one_pass_gives_both_targets_and_the_encoder(
    backbone: DUSt3R, banks: list[RidgeBank]
) -> None:
    assert [(b.kind, b.fit.whose) for b in banks if b.fit] == [
        ("ridge", "truth"),
        ("ridge", "own"),
        ("encoder", "truth"),
        ("encoder", "own"),
    ]
    assert set(banks[0].sites) == {s for s in backbone.sites() if s.startswith("dec")}
    assert banks[2].sites == ("enc1.0.mlp", "enc2.0.mlp")
    for bank in banks:
        assert bank.fit is not None
        assert bank.backbone == fingerprint(backbone)
        assert (bank.fit.scenes, bank.fit.held_out, bank.fit.views) == (24, 8, 2)
        assert len(bank.fit.ridges) == len(bank.fit.errors) == len(bank.sites)


def test_a_probe_of_the_truth_is_a_ridge_regression_on_it(
    backbone: DUSt3R, chosen: FitScenes, banks: list[RidgeBank]
) -> None:
    """In double precision, on all patches at once, with the ridge that was chosen."""
    bank, site = bank_of(banks, "ridge", "truth"), "dec2.0.cross_attn"
    assert bank.fit is not None
    rooms = chosen.scenes.batch(range(24))
    stream = trace(backbone, rooms, site)[site].patches.flatten(0, 1).double()
    x = torch.nn.functional.layer_norm(stream, (16,), eps=1e-6).numpy()
    points = patchify(normalise(rooms.points, rooms.valid)[1], 8)
    y = compress_points(points).mT.flatten(2).flatten(0, 1).double().numpy()
    known = whole_patches(rooms.valid[1]).flatten()
    x, y = x[known.numpy()], y[known.numpy()]
    centred = x - x.mean(0)
    gram = centred.T @ centred
    row = bank.sites.index(site)
    gram += bank.fit.ridges[row] * np.trace(gram) / 16 * np.eye(16)
    weight = np.linalg.solve(gram, centred.T @ (y - y.mean(0)))
    expected = centred @ weight + y.mean(0)
    with torch.no_grad():
        raw = bank(stream[None, known].float(), slice(row, row + 1))[0]
    np.testing.assert_allclose(raw[..., :3].mT.flatten(1), expected, atol=2e-3)


def test_ridges_are_the_best_on_held_out_scenes(
    backbone: DUSt3R, chosen: FitScenes, banks: list[RidgeBank]
) -> None:
    """The stated error is that of the probe on the held-out scenes' fully known patches."""
    bank = bank_of(banks, "ridge", "truth")
    assert bank.fit is not None
    rooms = chosen.held_out.batch(range(8))
    run = trace(backbone, rooms, bank.sites)
    true = normalise(rooms.points, rooms.valid)
    for site, error in zip(bank.sites, bank.fit.errors, strict=True):
        view = 0 if site.startswith("dec1") else 1
        distance = (bank.decode(run[site]).points - true[view]).norm(dim=-1)
        cells = patchify(distance[..., None], 8)[whole_patches(rooms.valid[view])]
        assert cells.mean().item() == pytest.approx(error, rel=1e-3)


def test_random_features_read_what_an_affine_map_cannot(
    backbone: DUSt3R, chosen: FitScenes, banks: list[RidgeBank]
) -> None:
    wide = fit_banks(backbone, chosen, FitSettings(features=40, seed=3))
    assert {b.kind for b in wide} == {"features"}
    again = fit_banks(backbone, chosen, FitSettings(features=40, seed=3))
    assert torch.equal(wide[0].weight, again[0].weight)
    stream = torch.randn(5, 16)
    normed = torch.nn.functional.layer_norm(stream, (16,))
    inputs = wide[0].inputs(stream)
    expected = torch.nn.functional.gelu(normed @ wide[0].projection + wide[0].offset)
    torch.testing.assert_close(inputs[:, 16:], expected, atol=1e-4, rtol=1e-4)
    fits = bank_of(wide, "features", "own").fit, bank_of(banks, "ridge", "own").fit
    assert fits[0] is not None and fits[1] is not None  # noqa: PT018
    assert np.mean(fits[0].errors) < np.mean(fits[1].errors)


def test_a_control_has_random_weights(backbone: DUSt3R, chosen: FitScenes, tmp_path: Path) -> None:
    like = random(backbone, 7)
    found = fit_banks(like, chosen, FitSettings(random_seed=7))
    assert [bank.kind for bank in found] == ["random", "random"]
    save_probes(found[0], tmp_path / "control.safetensors")
    loaded = load_probes(tmp_path / "control.safetensors")
    assert loaded.kind == "random"
    assert fingerprint(backbone_of(loaded, backbone)) == fingerprint(like)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_architecture_with_its_views(name: str) -> None:
    model = EXAMPLES[name]()
    views = 2 if model.most_views == 2 else 3
    whose = WHOSE if predicts_pointmaps(model) else (TRUTH,)
    found = fit_banks(model, fit_scenes(ROOMS, model, 12, views), FitSettings(whose))
    bank = found[0]
    stack = trunk(model).name
    assert bank.sites == tuple(s for s in model.sites() if s.startswith(stack))
    scene = fit_scenes(ROOMS, model, 1, views).scenes.batch([0])
    site = bank.sites[-1].replace(f"{stack}2", f"{stack}{views}")
    read = bank.decode(trace(model, scene, site)[site])
    assert read.points.shape == (1, *scene.views[-1].size, 3)
    assert read.points.isfinite().all()


def test_further_views_count_for_view_2() -> None:
    """Three views: as many patches of view 2's probe as both further views have."""
    model = EXAMPLES["vggt"]()
    (group, *_) = groups(model)
    assert group.read_by("dec2.0.mlp", 3) == ["dec2.0.mlp", "dec3.0.mlp"]
    assert group.read_by("dec1.0.mlp", 3) == ["dec1.0.mlp"]


def test_the_number_of_scenes_follows_from_the_width() -> None:
    with torch.device("meta"):
        large = DUSt3R(DUSt3RConfig((224, 224)))
    assert scenes_for(large, FitSettings()) == 79  # 20 patches x 769 unknowns / 196 patches a view
    assert scenes_for(random(CONFIG), FitSettings()) == 64


def test_small_models_sum_the_products_of_fewer_patches(
    backbone: DUSt3R, chosen: FitScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By counting multiplications: 4 w^2 an attention, 8 an MLP; w (5/8 w + outputs) a site."""
    config = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)
    blocks = (4 + 8) * 16**2 + 2 * (4 + 4 + 8) * 24**2
    outputs = 7 * 64
    sites = 7 * 24 * (24 * 5 / 8 + outputs) + 16 * (16 * 5 / 8 + outputs)
    monkeypatch.setattr(settings_module, "LEAST_SHARE", 0.0)
    share = patch_share(random(config), FitSettings())
    assert share == pytest.approx(settings_module.MOST_COST * blocks / sites)
    monkeypatch.setattr(settings_module, "LEAST_SHARE", 0.25)
    fitting = Fitting(backbone, chosen, FitSettings())
    for start in range(0, 24, 8):
        fitting.take(chosen.scenes.batch(range(start, start + 8)), held=False)
    assert 0.15 < fitting.equations["dec1.embed"].rows / (24 * 16) < 0.35


def album(folder: Path, count: int) -> Path:
    """Photographs of noise, not all of one size."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.RandomState(number).randint(0, 255, (48, 64 + 8 * (number % 2), 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_a_folder_of_photographs_is_fitted_to_the_own_output(
    backbone: DUSt3R, tmp_path: Path
) -> None:
    folder = album(tmp_path / "photos", 20)
    chosen = fit_scenes(str(folder), backbone, 40)
    assert not chosen.truth
    assert isinstance(chosen.scenes, Subset)
    albums = chosen.scenes.pairs, chosen.held_out
    assert [len(album.photographs) for album in albums] == [18, 2]  # type: ignore[attr-defined]
    (bank, _) = fit_banks(backbone, chosen, FitSettings(whose=("own",)))
    assert bank.fit is not None
    assert bank.fit.data.startswith(f"{folder}#")
    assert bank.fit.words == (f"fitted to the model's own final output on 40 scenes of {folder}")
    assert "40 draws of 2 among 18 photographs" in bank.fit.sample
    with pytest.raises(Prob3rError, match="truth of these scenes is not known"):
        fit_banks(backbone, chosen, FitSettings())
    (folder / "00.png").unlink()
    assert fit_scenes(str(folder), backbone, 40).name != chosen.name


def test_too_little_to_fit_on_is_one_sentence(backbone: DUSt3R, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="holds 5 photographs; fitting probes needs at least 6"):
        fit_scenes(str(album(tmp_path / "few", 5)), backbone, 40)
    chosen = fit_scenes(ROOMS, backbone, 1)
    with pytest.raises(
        Prob3rError, match=r"16 patches .* too few to fit 16 numbers for each output"
    ):
        fit_banks(backbone, chosen, FitSettings())


def test_patches_with_a_hole_are_left_out(backbone: DUSt3R) -> None:
    """A scene whose truth is unknown in one pixel of a patch fits like one without that patch."""
    rooms = Rooms("train", (32, 32), compile=False)

    class Holes:
        def __len__(self) -> int:
            return 24

        def batch(self, indices: list[int]) -> object:
            pair = rooms.batch(indices)
            view = pair.view2
            assert view.depth is not None and view.valid is not None  # noqa: PT018
            valid, depth = view.valid.clone(), view.depth.clone()
            valid[:, 3, 3], depth[:, 3, 3] = False, 1e6
            return pair.with_views(view2=replace(view, valid=valid, depth=depth))

    kept = sample(Rooms("validation", (32, 32), compile=False), 8)
    whole = fit_banks(backbone, FitScenes("rooms", Subset(rooms, range(24)), kept), FitSettings())
    holes = fit_banks(backbone, FitScenes("holes", Holes(), kept), FitSettings())  # type: ignore[arg-type]
    row = whole[0].sites.index("dec2.1.mlp")
    raw = compress_points(torch.full((1, 3), 1e6)).abs().max()
    assert holes[0].bias[row].abs().max() < raw
    assert not torch.equal(holes[0].weight[row], whole[0].weight[row])
    assert holes[0].weight[row].abs().max() < 3 * whole[0].weight[row].abs().max()


def test_points_come_back_from_before_the_exponential() -> None:
    points = 10 ** torch.linspace(-3, 3, 40)[:, None] * torch.randn(40, 3)
    torch.testing.assert_close(expand_points(compress_points(points)), points, rtol=1e-4, atol=1e-6)


def test_the_plan_counts_what_a_fit_keeps(backbone: DUSt3R, chosen: FitScenes) -> None:
    fitting, costs = Fitting(backbone, chosen, FitSettings()), list[FitCost]()
    fitting.take(chosen.held_out.batch(range(8)), held=True)
    run = trace(backbone, chosen.scenes.batch(range(fitting.batch)), list(fitting.equations))
    tensors = [*backbone.parameters(), *run.values()]
    for equations in fitting.equations.values():
        tensors += [equations.gram, equations.cross]
    for kept in fitting.held.values():
        tensors += [each.streams for each in kept]
    (banks,) = fit_together(backbone, chosen, [FitSettings()], begin=costs.append)
    tensors += [bank.weight for bank in banks]
    (cost,) = costs
    # Patches of which a pixel is not known are not kept.
    assert cost.bytes == pytest.approx(sum(tensor.nbytes for tensor in tensors), rel=0.05)
    assert (cost.scenes, cost.seconds > 0) == (24, True)
