import torch

from prob3r.geometry import PixelMatches, central_matches
from prob3r.measures.readout import by_features, by_points, pixels_off
from prob3r.rooms import Rooms


def test_the_most_similar_feature_does_not_depend_on_its_length() -> None:
    one = torch.tensor([[[9.0, 9.0], [0.1, 0.0], [0.0, 2.0]]])
    other = torch.tensor([[[5.0, 0.1], [1.0, 1.2]]])
    assert by_features(other, one).tolist() == [[1, 0]]


def test_the_nearest_point_is_that_of_the_mean_of_a_patch() -> None:
    one = torch.zeros(1, 2, 4, 3)
    one[:, :, 2:, 0] = 4.0  # the second of two patches of 2x2 pixels
    other = torch.zeros(1, 2, 2, 3)
    other[:, 0, :, 0], other[:, 1, :, 0] = 6.0, 0.0  # a mean of 3, nearer to 4 than to 0
    assert by_points(other, one, 2).tolist() == [[1]]


def test_an_end_point_error_is_from_the_middle_of_the_found_patch() -> None:
    truth = PixelMatches(
        torch.tensor([[[[1.5, 1.5], [9.0, 0.0], [4.5, 1.5]]]]),
        torch.tensor([[[True, False, True]]]),
    )
    # Patches of 4 pixels, 3 columns: patch 1 has its middle at (5.5, 1.5), patch 3 at (1.5, 5.5).
    found = pixels_off(torch.tensor([[3, 0, 1]]), truth, 3, 4)
    assert found.tolist() == [(4.0 + 1.0) / 2]
    none = truth._replace(visible=torch.zeros_like(truth.visible))
    assert pixels_off(torch.tensor([[3, 0, 1]]), none, 3, 4).isnan().all()


def test_true_matches_are_off_by_less_than_a_patch() -> None:
    pair = Rooms("test", (32, 32), compile=False).batch(range(4))
    matches, truth = pair.patch_matches(8), central_matches(pair.match_truth, 8)
    assert truth.visible.flatten(1).equal(matches.visible)
    off = pixels_off(matches.match, truth, 4, 8)
    assert ((off >= 0) & (off <= 8 / 2**0.5)).all()
    assert (pixels_off((matches.match + 5) % 16, truth, 4, 8) > off).all()
