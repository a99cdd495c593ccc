"""The data sets of the protocols, in their exact layouts and as small as they can be."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.geometry.made_up import HOMOGRAPHY
from tests.scenes.readers import benchmark_writers as writers
from tests.scenes.readers.shots import shots
from tests.scenes.readers.writers import image, png16, tum


def co3dv2(root: Path) -> Path:
    """Sequences of 52 frames, one of 6, and one whose translations make no sense."""
    writers.co3dv2(root)
    for file in sorted((root / "co3d_v2_annotations").glob("*.jgz")):
        with gzip.open(file, "rt") as content:
            ((sequence, frames),) = json.load(content).items()
        many = [_copy(root / "data", frames[i % 5], i) for i in range(52)]
        far = [dict(frame, T=[1e6, 0, 0]) for frame in many]
        with gzip.open(file, "wt") as content:
            json.dump(
                {sequence: many, f"{sequence}_few": many[:6], f"{sequence}_far": far}, content
            )
    return root


def _copy(root: Path, frame: dict, number: int) -> dict:
    name = frame["filepath"].replace("frame", f"copy{number:03d}_")
    _unlike(root / frame["filepath"], root / name, number)
    return dict(frame, filepath=name)


def re10k(root: Path, frames: int = 12) -> Path:
    """A recording of as many frames as the protocol needs, and a short one."""
    writers.re10k(root)
    (file,) = root.glob("*/annotations.json")
    listed = json.loads(file.read_text())
    many = []
    for i in range(frames):
        name = listed[i % 5]["filepath"].replace("images/", f"images/1{i:03d}_")
        _unlike(root / listed[i % 5]["filepath"], root / name, i)
        many.append(dict(listed[i % 5], filepath=name, idx=i))
    file.write_text(json.dumps(many))
    short = root / "000db54a47bd43fe"
    short.mkdir()
    (short / "annotations.json").write_text(json.dumps(many[:4]))
    return root


def _unlike(source: Path, target: Path, number: int) -> None:
    """Copy an image with one pixel changed, so that an oracle can tell the copies apart."""
    if source.suffix == ".png":
        pixels = np.array(Image.open(source))
        pixels[0, 0] = number
        Image.fromarray(pixels).save(target)
    else:
        pixels = np.array(Image.open(source))
        pixels[:16, :16] = 5 * number
        Image.fromarray(pixels).save(target, quality=100, subsampling=0)


def sevenscenes(root: Path) -> Path:
    """Two sequences of one scene, with depth in the colour camera."""
    writers.sevenscenes_projected(root)
    for folder, first in (("seq-01", 0), ("seq-02", 3)):
        for file in sorted((root / "chess" / folder).iterdir()):
            stem, ending = file.name[:12], file.name[12:]
            number = int(stem.removeprefix("frame-")) - first
            file.rename(file.with_name(f"frame-{number:06d}{ending}"))
    return root


def sintel(root: Path) -> Path:
    """One sequence; the others of the list are the same again."""
    writers.sintel(root)
    return root


def recordings(root: Path) -> Path:
    """One recording of TUM's, without depth images, and listed ones of another time."""
    tum(root)
    folder = root / "rgbd_dataset_freiburg3_office"
    shutil.rmtree(folder / "depth")
    (folder / "depth.txt").write_text("1.0 depth/1.0.png\n")
    return root


def hpatches(root: Path) -> Path:
    """One sequence of images; what they show has no influence on the truth."""
    folder = root / "v_there"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        picture = Image.fromarray(shots()[number % 5].image).resize((80 + number, 60))
        picture.save(folder / f"{number}.ppm")
    for number in range(2, 7):
        matrix = HOMOGRAPHY.copy()
        matrix[0, 2] += number
        rows = [" ".join(f"{x:.9g}" for x in row) for row in matrix]
        (folder / f"H_1_{number}").write_text("\n".join(rows) + "\n")
    (root / "i_pool").mkdir()
    return root


def bonn(root: Path) -> Path:
    """Five recordings with frames from 29 on; images and depth have times of their own."""
    for sequence in ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous"):
        folder = root / f"rgbd_bonn_{sequence}"
        for i in range(33):
            shot = shots()[i % 5].scaled(0.5)
            image(folder / "rgb" / f"1548266470.{i:05d}.png", shot)
            png16(folder / "depth" / f"1548266470.{i + 7:05d}.png", 5000 * shot.depth)
    return root


def kitti(root: Path) -> Path:
    """Two drives of three frames."""
    for drive in ("2011_09_26_drive_0002_sync_02", "2011_09_26_drive_0005_sync_02"):
        for i, shot in enumerate(shots()[:3]):
            image(root / "image_gathered" / drive / f"{i:010d}.png", shot)
            depth = root / "groundtruth_depth_gathered" / drive / f"{i:010d}.png"
            png16(depth, 256 * shot.depth)
    return root
