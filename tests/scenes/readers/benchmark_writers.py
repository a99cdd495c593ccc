"""Small data sets in the layouts of public benchmarks, written from a room.

As in `writers`, a writer fills a folder and returns what is true of each frame, by its name.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.scenes.readers.shots import SIZE, shots
from tests.scenes.readers.writers import HALF, OPENGL, Truth, image, kinect, png16, sevenscenes


def nrgbd(root: Path) -> Truth:
    truth, folder, rows = {}, root / "green_room", []
    for i, shot in enumerate(shots(kinect(554.2562584220408, 554.2562584220408, 320, 240))):
        image(folder / "images" / f"img{i}.png", shot)
        png16(folder / "depth" / f"depth{i}.png", 1000 * shot.depth)
        rows += [" ".join(f"{x:.9f}" for x in row) for row in shot.cam_to_world @ OPENGL]
        truth[f"green_room/img{i}"] = shot
    (folder / "poses.txt").write_text("\n".join(rows) + "\n")
    return truth


def eth3d(root: Path) -> Truth:
    truth, folder = {}, root / "office"
    for i, shot in enumerate(shots()):
        stem = f"DSC_{200 + i:04d}"
        image(folder / "images" / "custom_undistorted" / f"{stem}.JPG", shot)
        depth = folder / "ground_truth_depth" / "custom_undistorted" / f"{stem}.JPG"
        depth.parent.mkdir(parents=True, exist_ok=True)
        np.where(shot.depth > 0, shot.depth, np.inf).astype("<f4").tofile(depth)
        camera = folder / "custom_undistorted_cam" / f"{stem}.npz"
        camera.parent.mkdir(exist_ok=True)
        motion = np.linalg.inv(shot.cam_to_world)
        np.savez(camera, intrinsics=shot.intrinsics + HALF, extrinsics=motion)
        truth[f"office/{stem}"] = shot
    return truth


def dtu(root: Path) -> Truth:
    truth, folder = {}, root / "scan9"
    for name in ("depths", "binary_masks", "cams"):
        (folder / name).mkdir(parents=True)
    for i, shot in enumerate(shots()):
        shot = shot.scaled(100.0)
        image(folder / "images" / f"{i:08d}.jpg", shot)
        np.save(folder / "depths" / f"{i:08d}.npy", shot.depth.astype(np.float32))
        mask = np.full(SIZE, 255, dtype=np.uint8)
        mask[:, :6] = 0
        Image.fromarray(mask).save(folder / "binary_masks" / f"{i:08d}.png")
        lines = ["extrinsic", *_lines(np.linalg.inv(shot.cam_to_world)), ""]
        lines += ["intrinsic", *_lines(shot.intrinsics), "", "425.0 2.5 192 905.0"]
        (folder / "cams" / f"{i:08d}_cam.txt").write_text("\n".join(lines) + "\n")
        known = np.arange(SIZE[1]) >= 11  # five pixels of white have to be to the left
        truth[f"scan9/{i:08d}"] = replace(shot, depth=np.where(known, shot.depth, 0))
    return truth


def sintel(root: Path) -> Truth:
    truth, tag = {}, np.array([202021.25], "<f4").tobytes()
    for folder in ("depth", "camdata_left"):
        (root / folder / "alley_2").mkdir(parents=True)
    for i, shot in enumerate(shots()):
        name = f"alley_2/frame_{i + 1:04d}"
        image(root / "final" / f"{name}.png", shot)
        size = np.array([SIZE[1], SIZE[0]], "<i4").tobytes()
        depth = np.where(shot.depth > 0, shot.depth, 1e10).astype("<f4")  # the sky
        (root / "depth" / f"{name}.dpt").write_bytes(tag + size + depth.tobytes())
        motion = np.linalg.inv(shot.cam_to_world)[:3].astype("<f8")
        numbers = shot.intrinsics.astype("<f8").tobytes() + motion.tobytes()
        (root / "camdata_left" / f"{name}.cam").write_bytes(tag + numbers)
        truth[name] = shot
    return truth


def sevenscenes_projected(root: Path) -> Truth:
    """7-Scenes with depth that was moved into the colour camera."""
    truth = sevenscenes(root, kinect(525, 525, 320, 240))
    for file in root.glob("chess/*/*.depth.png"):
        file.rename(str(file).replace(".depth.png", ".depth.proj.png"))
    return truth


def re10k(root: Path) -> Truth:
    truth, sequence, listed = {}, "000c3ab189999a83", []
    for i, shot in enumerate(shots()):
        name = f"{sequence}/images/{i:04d}.png"
        image(root / name, shot)
        listed.append(
            {
                "idx": i,
                "filepath": name,
                "intrinsics": (shot.intrinsics + HALF).tolist(),
                "extrinsics": np.linalg.inv(shot.cam_to_world).tolist(),
            }
        )
        truth[name] = shot
    (root / sequence / "annotations.json").write_text(json.dumps(listed))
    return truth


def co3dv2(root: Path) -> Truth:
    """Two sequences of the same photographs: one in a folder of its own kind, one beside it."""
    truth, half = {}, min(SIZE) / 2
    (root / "co3d_v2_annotations").mkdir()
    for category, sequence in (("apple", "110_13051_23361"), ("ball", "113_13350_23632")):
        listed = []
        for i, shot in enumerate(shots()):
            name = f"{category}/{sequence}/images/frame{i + 1:06d}.jpg"
            image(root / "data" / name, shot)
            motion = np.diag([-1.0, -1, 1, 1]) @ np.linalg.inv(shot.cam_to_world)
            k = shot.intrinsics + HALF
            listed.append(
                {
                    "filepath": name,
                    "R": motion[:3, :3].T.tolist(),
                    "T": motion[:3, 3].tolist(),
                    "focal_length": [k[0, 0] / half, k[1, 1] / half],
                    "principal_point": [
                        (SIZE[1] / 2 - k[0, 2]) / half,
                        (SIZE[0] / 2 - k[1, 2]) / half,
                    ],
                }
            )
            truth[name] = shot
        with gzip.open(root / "co3d_v2_annotations" / f"{category}_test.jgz", "wt") as file:
            json.dump({sequence: listed}, file)
    return truth


PAIRS = ((0, 2), (3, 1), (2, 4))


def calibrated_pairs(root: Path, superglue: bool = False) -> Truth:
    truth, lines = {}, []
    paths = [f"scene0707_00/color/{15 * i}.jpg" for i in range(5)]
    for path, shot in zip(paths, shots(), strict=True):
        image(root / path, shot)
    for number, (first, second) in enumerate(PAIRS):
        one, two = shots()[first], shots()[second]
        motion = np.linalg.inv(two.cam_to_world) @ one.cam_to_world
        numbers = [*one.intrinsics.flatten(), *two.intrinsics.flatten()]
        if superglue:
            words = [paths[first], paths[second], "0", "0"]
            numbers += [*motion.flatten()]
        else:
            words = [paths[first], paths[second]]
            numbers += [*motion[:3, :3].flatten(), *motion[:3, 3]]
        lines.append(" ".join([*words, *(f"{x:.9g}" for x in numbers)]))
        here = replace(one, cam_to_world=np.eye(4))
        truth[f"{number:05d}/{paths[first]}"] = here
        truth[f"{number:05d}/{paths[second]}"] = replace(two, cam_to_world=np.linalg.inv(motion))
    name = "scannet_test_pairs_with_gt.txt" if superglue else "pairs_calibrated.txt"
    (root / name).write_text("\n".join(lines) + "\n")
    return truth


def posed_pairs(root: Path) -> Truth:
    truth, lines = {}, []
    names = [f"0015/{i}_{i:x}ce1c_o.jpg" for i in range(5)]
    for name, shot in zip(names, shots(), strict=True):
        image(root / "images" / name, shot)
        motion, k = np.linalg.inv(shot.cam_to_world), shot.intrinsics + HALF
        camera = ["PINHOLE", SIZE[1], SIZE[0], k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
        numbers = [*motion[:3, :3].flatten(), *motion[:3, 3]]
        lines.append(" ".join(map(str, [name, *numbers, *camera])))
        truth[name] = shot
    (root / "views.txt").write_text("\n".join(lines) + "\n")
    listed = [f"{names[first]} {names[second]}" for first, second in PAIRS]
    (root / "pairs.txt").write_text("\n".join(listed) + "\n")
    return truth


def _lines(matrix: np.ndarray) -> Sequence[str]:
    return [" ".join(f"{x:.9g}" for x in row) for row in matrix]


WITH_DEPTH: dict[str, Callable[[Path], Truth]] = {
    "nrgbd": nrgbd,
    "eth3d": eth3d,
    "dtu": dtu,
    "sintel": sintel,
}
POSED: dict[str, Callable[[Path], Truth]] = {
    "re10k": re10k,
    "co3dv2": co3dv2,
    "calibrated-pairs": calibrated_pairs,
    "posed-pairs": posed_pairs,
}
