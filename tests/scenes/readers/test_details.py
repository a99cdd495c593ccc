"""What is particular to one layout, and to the search for pairs."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import Framing
from prob3r.scenes.readers import READERS, Camera, CorruptError, Listing, Reader, covisible
from prob3r.scenes.readers.colmap_binary import check_lengths
from prob3r.scenes.readers.conventions import from_corner, from_opengl, pinhole, rigid
from prob3r.scenes.readers.files import read_arrays
from prob3r.scenes.readers.tum import _nearest, _rotation
from prob3r.scenes.source import open_pairs
from tests.scenes.readers.conftest import Written
from tests.scenes.readers.shots import FRAMING, SIZE, shots
from tests.scenes.readers.writers import png16

Write = Callable[[str], Written]


@pytest.fixture
def own(write: Write, tmp_path: Path) -> Write:
    """A layout that a test may break."""
    return lambda layout: write(layout).copy(tmp_path)


# --- conventions --------------------------------------------------------------------------------


def test_the_first_pixel_of_an_image_is_at_zero() -> None:
    k = from_corner(pinhole(100, 90, 32, 24))  # the middle of an image of 64x48
    assert k.tolist() == [[100, 0, 31.5], [0, 90, 23.5], [0, 0, 1]]


def test_opengl_looks_along_minus_z() -> None:
    pose = from_opengl(rigid(np.eye(3), np.array([1.0, 2.0, 3.0])))
    assert pose.tolist() == [[1, 0, 0, 1], [0, -1, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1]]


def test_a_quaternion_has_its_real_part_last() -> None:
    quarter = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])  # about z, x to y
    expected = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(_rotation(3 * quarter), expected, atol=1e-12)
    assert np.isnan(_rotation(np.zeros(4))).all()


def test_each_time_finds_the_nearest() -> None:
    order, near = _nearest(np.array([0.0, 1.004, 1.006, 5]), np.array([1.01, 0.01, 1.0, 0.05]))
    assert order.tolist() == [1, 2, 0, 0]
    assert near.tolist() == [True, True, True, False]
    assert _nearest(np.array([1.0, 2.0]), np.array([2.01]))[1].tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda k, p: (k, p * np.nan), "a number that is not finite"),
        (lambda k, p: (k / 0.0, p), "a number that is not finite"),
        (lambda k, p: (k, p @ np.diag([1, 1, -1, 1])), "3x3 part is not a rotation"),
        (lambda k, p: (k, p @ np.diag([1.1, 1.1, 1.1, 1])), "3x3 part is not a rotation"),
        (lambda k, p: (k, p + np.eye(4)[3]), "last row is not 0, 0, 0, 1"),
        (lambda k, p: (-k, p), "without a positive focal length"),
        (lambda k, p: (k + np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), p), "with skew"),
    ],
)
def test_what_is_no_camera_is_refused(change: Callable, match: str) -> None:
    with np.errstate(all="ignore"):
        k, pose = change(pinhole(50, 50, 32, 24), np.eye(4))
    with pytest.raises(CorruptError, match=f"^scene/7 has a camera with .*{match}") as error:
        Camera.of(k, pose).check("scene/7")
    assert error.value.problem == "bad camera"


def test_a_rotation_of_few_digits_is_one() -> None:
    turn = np.round(_rotation(np.array([0.1, 0.2, 0.3, 0.9])), 4)
    Camera.of(pinhole(50, 50, 32, 24), rigid(turn, np.zeros(3))).check("")


# --- cameras in files ---------------------------------------------------------------------------


def spoil_blendedmvs(root: Path, change: Callable) -> None:
    file = next(root.glob("*/00000000.npz"))
    content = dict(np.load(file))
    content["R_cam2world"] = change(content["R_cam2world"])
    np.savez(file, **content)


def spoil_habitat(root: Path, change: Callable) -> None:
    file = next(root.glob("**/*_1_camera_params.json"))
    content = json.loads(file.read_text())
    content["R_cam2world"] = change(np.array(content["R_cam2world"])).tolist()
    file.write_text(json.dumps(content))


def spoil_sevenscenes(root: Path, change: Callable) -> None:
    file = root / "chess" / "seq-01" / "frame-000000.pose.txt"
    pose = np.loadtxt(file)
    pose[:3, :3] = change(pose[:3, :3])
    np.savetxt(file, pose)


def spoil_nerfstudio(root: Path, change: Callable) -> None:
    content = json.loads((root / "transforms.json").read_text())
    matrix = np.array(content["frames"][-1]["transform_matrix"])  # written last to first
    matrix[:3, :3] = change(matrix[:3, :3])
    content["frames"][-1]["transform_matrix"] = matrix.tolist()
    (root / "transforms.json").write_text(json.dumps(content))


SPOILED = {
    "blendedmvs": spoil_blendedmvs,
    "habitat": spoil_habitat,
    "7scenes": spoil_sevenscenes,
    "nerfstudio": spoil_nerfstudio,
}


@pytest.mark.parametrize("layout", SPOILED)
@pytest.mark.parametrize("factor", [np.nan, -1.0, 2.0])
def test_a_pose_that_is_no_rotation_makes_its_frame_corrupt(
    own: Write, layout: str, factor: float
) -> None:
    written = own(layout)
    SPOILED[layout](written.root, lambda rotation: factor * rotation)
    reader = written.open(strict=False)
    frame = reader.names.index(next(iter(written.truth)))
    match = "not finite" if np.isnan(factor) else "not a rotation"
    with pytest.raises(CorruptError, match=match) as error:
        reader.view(frame)
    assert error.value.problem == "bad camera"
    assert reader.names[frame] in str(error.value)


def test_a_quaternion_without_length_is_a_bad_camera(own: Write) -> None:
    written = own("tum")
    file = next(written.root.glob("*/groundtruth.txt"))
    lines = file.read_text().splitlines()
    lines[3] = " ".join(lines[3].split()[:4] + ["0"] * 4)
    file.write_text("\n".join(lines))
    with pytest.raises(CorruptError, match="not finite"):
        written.open(strict=False).view(0)


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [
        ("co3d", "**/frame000001.npz"),
        ("blendedmvs", "**/00000000.npz"),
        ("megadepth", "**/0_*.npz"),
        ("habitat", "**/*_1_camera_params.json"),
        ("7scenes", "**/frame-000000.pose.txt"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"1 2 3"])
def test_a_camera_file_that_cannot_be_read(
    own: Write, layout: str, pattern: str, content: bytes | None
) -> None:
    written = own(layout)
    file = next(written.root.glob(pattern))
    reader = written.open()
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CorruptError, match=file.name):
        reader.view(0)


# --- lists --------------------------------------------------------------------------------------


def test_a_list_may_be_opened_instead_of_the_folder(write: Write) -> None:
    root = write("7scenes").root / "chess"
    train = open_pairs(f"7scenes:{root / 'TrainSplit.txt'}", FRAMING)
    assert train.scenes == ["chess/seq-01"] * 3
    assert len(open_pairs(f"7scenes:{root / 'seq-02'}", FRAMING).names) == 2
    assert len(open_pairs(f"7scenes:{root}", FRAMING).names) == 5
    test = open_pairs(f"co3d:{write('co3d').root / 'selected_seqs_test.json'}", FRAMING)
    assert test.names == [f"apple/110_13051_23361/frame{i:06d}" for i in (10, 13)]
    habitat = write("habitat").root / "Habitat_1000_scenes_train.txt"
    assert len(open_pairs(f"habitat:{habitat}", FRAMING)) == 4
    assert len(open_pairs(str(write("nerfstudio").root / "transforms.json"), FRAMING).names) == 5


def test_frames_that_a_list_does_not_know_are_refused(own: Write) -> None:
    written = own("scannetpp")
    file = written.root / "all_metadata.npz"
    content = dict(np.load(file))
    content["pairs"] = np.array([[0, 5, 0.5]])
    np.savez(file, **content)
    with pytest.raises(Prob3rError, match="lists pairs of frames that it does not have; it has 5"):
        written.open()


@pytest.mark.parametrize("layout", ["blendedmvs", "megadepth", "habitat"])
def test_a_missing_library_is_named_when_the_set_is_opened(
    write: Write, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(Prob3rError, match=r"needs the Python package OpenEXR.*prob3r\[exr\]"):
        write(layout).open()


def test_pycolmap_is_needed_for_colmap_alone(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(Prob3rError, match=r"pycolmap.*prob3r\[colmap\]"):
        write("colmap").open()
    assert len(write("tum").open()) == 10


# --- sizes and lenses ---------------------------------------------------------------------------


def test_coarser_depth_and_finer_cameras_are_brought_to_the_image(own: Write) -> None:
    written = own("nerfstudio")
    true = written.truth["nerfstudio/images/frame_00000.png"]
    file = written.root / "transforms.json"
    content = json.loads(file.read_text())
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):  # counted from the corner, so that
        content[key] *= 3  # a finer image multiplies all
    file.write_text(json.dumps(content))
    png16(written.root / "depth" / "frame_00000.png", 1000 * true.depth[1::2, 1::2])
    view = written.open().view(0)
    np.testing.assert_allclose(view.intrinsics[0].numpy(), true.intrinsics, atol=1e-4)
    np.testing.assert_allclose(view.depth[0, 1::2, 1::2].numpy(), true.depth[1::2, 1::2], atol=1e-3)
    assert torch.equal(view.depth[0, ::2, ::2], view.depth[0, 1::2, 1::2])


def test_depth_of_another_shape_is_refused(own: Write) -> None:
    written = own("nerfstudio")
    reader = written.open()
    png16(written.root / "depth" / "frame_00000.png", np.ones((48, 48)))
    with pytest.raises(CorruptError, match="64x48 pixels but its depth is for 48x48") as error:
        reader.view(0)
    assert error.value.problem == "bad depth"


def test_depth_of_8_bits_is_refused(own: Write) -> None:
    written = own("tum")
    reader = written.open()
    Image.new("L", (64, 48), 7).save(reader.depth_file(0))
    with pytest.raises(CorruptError, match="pixels are of mode L, not of 16-bit grey"):
        reader.view(0)


@pytest.mark.parametrize("change", [{"k1": 0.1}, {"camera_model": "OPENCV_FISHEYE"}])
def test_lens_distortion_is_refused(own: Write, change: dict) -> None:
    written = own("nerfstudio")
    file = written.root / "transforms.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(Prob3rError, match=r"frame_00000.png has lens distortion \((k1|OPENCV_F)"):
        written.open()


@pytest.mark.parametrize("unit", [1.0, 0.25])
def test_nerfstudio_may_name_its_unit_of_depth(own: Write, unit: float) -> None:
    written = own("nerfstudio")
    file = written.root / "transforms.json"
    content = json.loads(file.read_text()) | {"depth_unit_scale_factor": unit / 1000}
    for frame in content["frames"]:
        frame["transform_matrix"] = (
            np.diag([unit, unit, unit, 1])
            @ frame["transform_matrix"]
            @ np.diag([1 / unit] * 3 + [1])
        ).tolist()
    file.write_text(json.dumps(content))
    true = written.truth["nerfstudio/images/frame_00000.png"].depth
    assert written.open().depth(0).max() == pytest.approx(unit * true.max(), abs=1e-3)


def test_colmap_reads_text_older_models_and_refuses_distortion(own: Write) -> None:
    written = own("colmap")
    folder = written.root / "sparse" / "0"
    model = pycolmap.Reconstruction(str(folder))
    for file in folder.iterdir():
        file.unlink()
    model.write_text(str(folder))
    for name in ("rigs.txt", "frames.txt"):  # unknown before 2025
        (folder / name).unlink()
    reader = written.open()
    assert set(reader.names) == set(written.truth)
    pose = written.truth["colmap/left/0003.jpg"].cam_to_world
    np.testing.assert_allclose(reader.camera(3).cam_to_world[0].numpy(), pose, atol=1e-6)
    cameras = folder / "cameras.txt"
    cameras.write_text(f"1 SIMPLE_RADIAL {SIZE[1]} {SIZE[0]} 50 32 24 0.1\n")
    with pytest.raises(Prob3rError, match="SIMPLE_RADIAL with distortion; run `colmap image_und"):
        written.open()
    cameras.write_text("1 PINHOLE\n")
    with pytest.raises(Prob3rError, match="cannot be read as a COLMAP model"):
        written.open()


# --- pairs by overlap ---------------------------------------------------------------------------


def test_pairs_that_were_found_are_remembered(own: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    written = own("tum")
    first = written.open()
    searched: list[int] = []
    coarse = covisible._coarse

    def watched(reader: Reader, frame: int) -> object:
        searched.append(frame)
        return coarse(reader, frame)

    monkeypatch.setattr(covisible, "_coarse", watched)
    assert written.open().pairs.tolist() == first.pairs.tolist()
    assert not searched
    png16(first.depth_file(1), np.full(SIZE, 40_000))  # far away: nothing that another view sees
    again = written.open().pairs.tolist()
    assert searched == [0, 1, 2, 3, 4]
    assert again != first.pairs.tolist()


def test_without_a_cache_pairs_are_found_all_the_same(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(write("tum").open()) == 10


def test_a_damaged_cache_is_as_good_as_none(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pairs = write("tum").open().pairs.tolist()
    (cache,) = tmp_path.rglob("*.npz")
    whole = cache.read_bytes()
    method = whole.index(b"PK\1\2") + 10  # of compression
    other = whole[:method] + b"\x63" + whole[method + 1 :]
    for content in (b"", b"no cache", whole[:-30], other, pickle.dumps([1])):
        cache.write_bytes(content)
        assert write("tum").open().pairs.tolist() == pairs


def test_a_corrupt_frame_is_in_no_pair_and_stays_known(own: Write) -> None:
    written = own("tum")
    written.open().depth_file(2).write_bytes(b"no depth")
    for _ in range(2):  # also from the cache
        reader = written.open(strict=False)
        assert len(reader) == 6
        assert 2 not in reader.pairs
        (item,) = reader.corrupt
        assert item.problem == "corrupt file"
        assert reader.depth_file(2).name in str(item)
    with pytest.raises(Prob3rError, match="1 of 5 items are corrupt, and a run stops"):
        open_pairs(f"tum:{written.root}", FRAMING)


def test_pairs_are_sought_among_evenly_spaced_frames(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(READERS["tum"], "frames_per_scene", 3)
    assert write("tum").open().pairs.tolist() == [[0, 2], [0, 4], [2, 4]]


def test_views_back_to_back_are_no_pair(own: Write) -> None:
    written = own("nerfstudio")
    file = written.root / "transforms.json"
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        matrix = np.array(frame["transform_matrix"])
        number = int(frame["file_path"][-9:-4])
        matrix[:3, :3] = matrix[:3, :3] @ np.diag([-1, 1, -1]) if number % 2 else matrix[:3, :3]
        frame["transform_matrix"] = matrix.tolist()
    file.write_text(json.dumps(content))
    pairs = written.open().pairs.tolist()
    assert [0, 2] in pairs
    assert all((first - second) % 2 == 0 for first, second in pairs)


def test_a_set_without_an_overlapping_pair_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covisible, "LEAST", 1.1)
    colmap = write("colmap")
    with pytest.raises(Prob3rError, match="no two of its 5 frames see enough of the same"):
        colmap.open()
    looked_over = open_pairs(f"colmap:{colmap.root}", FRAMING, strict=False)
    assert looked_over.pairs.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_a_new_reader_joins_by_one_class(tmp_path: Path) -> None:
    class Mine(Reader, layout="mine"):
        """A photograph, its depth and its pose in three files of one name."""

        marker = "*.tif"

        def listing(self, found: list[Path]) -> Listing:
            names = [file.stem for file in found]
            return Listing(names, ["mine"] * len(names))

        def image(self, frame: int) -> Path:
            return self.root / f"{self.names[frame]}.tif"

        def depth_file(self, frame: int) -> Path:
            return self.root / f"{self.names[frame]}.npy"

        def camera(self, frame: int) -> Camera:
            (pose,) = read_arrays(self.root / f"{self.names[frame]}.npz", "pose")
            return Camera.of(shots()[0].intrinsics, pose)

    for i, shot in enumerate(shots()):
        Image.fromarray(shot.image).save(tmp_path / f"{i}.tif")
        np.save(tmp_path / f"{i}.npy", shot.depth)
        np.savez(tmp_path / f"{i}.npz", pose=shot.cam_to_world)
    try:
        pairs = open_pairs(f"mine:{tmp_path}", FRAMING)
        assert type(pairs) is type(open_pairs(str(tmp_path), FRAMING)) is Mine
        assert len(pairs) == 10
        assert pairs[3].names == ("0, 4",)
        assert pairs[3].overlap() > 0.4
    finally:
        del READERS["mine"]


def test_two_layouts_in_one_folder_are_told_apart_by_name(own: Write) -> None:
    root = own("nerfstudio").root
    (root / "sparse").mkdir()
    with pytest.raises(
        Prob3rError, match=r"could be of the layout \w+ or \w+; say which, as in \w+:"
    ):
        open_pairs(str(root), FRAMING)
    assert len(open_pairs(f"nerfstudio:{root}", FRAMING)) == 10


def test_images_are_framed_as_the_model_wants(write: Write) -> None:
    pair = READERS["megadepth"](write("megadepth").root, Framing(32, "square", 16))[0]
    assert pair.view1.size == pair.view2.size == (32, 32)
    assert pair.overlap() > 0.4


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with several cameras in a rig, and points with tracks."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_points3D = 2, 3, 20
    folder = tmp_path_factory.mktemp("rigs")
    pycolmap.synthesize_dataset(options).write_binary(str(folder))
    check_lengths(folder, pycolmap)
    return folder


@pytest.mark.parametrize("name", ["cameras", "images", "points3D", "rigs", "frames"])
def test_a_colmap_file_of_another_length_is_refused(rigs: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(rigs, tmp_path / "model")
    file = tmp_path / "model" / f"{name}.bin"
    whole = file.read_bytes()
    cuts = [whole[:end] for end in range(0, len(whole), len(whole) // 30)]
    for content in (*cuts, whole + b"\0", b"\xff" * 8 + whole[8:], b"\xff" * len(whole)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            check_lengths(tmp_path / "model", pycolmap)
    file.write_bytes(whole)
    check_lengths(tmp_path / "model", pycolmap)
