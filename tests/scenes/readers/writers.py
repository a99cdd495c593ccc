"""Small data sets in the layouts that prob3r reads, written from a room.

A writer fills a folder and returns what is true of each frame, by the name its reader gives it.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import OpenEXR
import pycolmap
import roma
import torch
from PIL import Image

from prob3r.geometry import resize_intrinsics
from tests.scenes.readers.shots import SIZE, Shot, shots

HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # to pixel centres at halves
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
Truth = dict[str, Shot]


def image(path: Path, shot: Shot) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lossy = {} if path.suffix == ".png" else {"quality": 100, "subsampling": 0}
    Image.fromarray(shot.image).save(path, **lossy)


def png16(path: Path, steps: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(steps.round().astype(np.uint16)).save(path)


def exr(path: Path, depth: np.ndarray, dtype: type = np.float32) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {"Y": depth.astype(dtype)}) as file:
        file.write(str(path))


def kinect_at(fx: float, fy: float, cx: float, cy: float, size: tuple[int, int]) -> torch.Tensor:
    """The intrinsics of a camera of 640x480 pixels, at another size."""
    k = torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]])
    return resize_intrinsics(k, (480, 640), size)[0]


def kinect(fx: float, fy: float, cx: float, cy: float) -> tuple[float, float, float, float]:
    """The same at the size of the shots, as fx, fy, cx and cy."""
    k = kinect_at(fx, fy, cx, cy, SIZE)
    return k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item()


def scannetpp(root: Path) -> Truth:
    truth = {f"0a5c013435/DSC{i:05d}": shot for i, shot in enumerate(shots())}
    for name, shot in truth.items():
        scene, stem = name.split("/")
        image(root / scene / "images" / f"{stem}.jpg", shot)
        png16(root / scene / "depth" / f"{stem}.png", 1000 * shot.depth)
    np.savez(
        root / "all_metadata.npz",
        counts=[0],
        scenes=["0a5c013435"],
        sceneids=[0] * len(truth),
        images=[name.split("/")[1] for name in truth],
        intrinsics=np.stack([shot.intrinsics + HALF for shot in truth.values()]),
        trajectories=np.stack([shot.cam_to_world for shot in truth.values()]),
        pairs=np.array([[0, 2, 0.71], [3, 1, 0.65], [2, 4, 0.7]]),
    )
    return truth


def co3d(root: Path) -> Truth:
    truth, sequence = {}, "apple/110_13051_23361"
    for i, shot in enumerate(shots()):
        shot = shot.scaled(7.3)  # the unit of a sequence is its own
        stem = f"frame{3 * i + 1:06d}"
        folder = root / sequence
        image(folder / "images" / f"{stem}.jpg", shot)
        farthest = shot.depth.max()
        np.savez(
            folder / "images" / f"{stem}.npz",
            camera_intrinsics=shot.intrinsics.astype(np.float32),
            camera_pose=shot.cam_to_world.astype(np.float32),
            maximum_depth=farthest,
        )
        png16(folder / "depths" / f"{stem}.jpg.geometric.png", shot.depth / farthest * 65535)
        mask = np.full(SIZE, 255, dtype=np.uint8)
        mask[:, :8], mask[:, 8:12] = 20, 30
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
        truth[f"{sequence}/{stem}"] = replace(shot, depth=np.where(mask > 25, shot.depth, 0))
    frames = [3 * i + 1 for i in range(len(truth))]
    for split, listed in (("train", frames[:3]), ("test", frames[3:])):
        content = {"apple": {"110_13051_23361": listed}, "banana": {}}
        (root / f"selected_seqs_{split}.json").write_text(json.dumps(content))
    return truth


def blendedmvs(root: Path) -> Truth:
    truth, scene = {}, "0000000b0000000a5c013435"
    for i, shot in enumerate(shots()):
        shot = shot.scaled(0.2)
        file = root / scene / f"{i:08d}"
        image(file.with_suffix(".jpg"), shot)
        exr(file.with_suffix(".exr"), shot.depth)
        np.savez(
            file.with_suffix(".npz"),
            intrinsics=shot.intrinsics,
            R_cam2world=shot.cam_to_world[:3, :3],
            t_cam2world=shot.cam_to_world[:3, 3],
        )
        truth[f"{scene}/{i:08d}"] = shot
    names = "seq_high", "seq_low", "img1", "img2", "score"
    dtype = list(zip(names, ("<u4", "<u8", "<u4", "<u4", "<f4"), strict=True))
    id = 0xB, 0xA5C013435
    pairs = np.array([(*id, 0, 1, 0.9), (*id, 4, 2, 0.5), (*id, 3, 1, 0.6)], dtype=dtype)
    np.save(root / "blendedmvs_pairs.npy", pairs)
    return truth


def megadepth(root: Path) -> Truth:
    truth = {}
    images = [f"{i}_{i:x}ce1c_o.jpg" for i in range(5)]
    for name, shot in zip(images, shots(), strict=True):
        shot = shot.scaled(3.0)
        file = root / "0015" / "0" / name
        image(Path(f"{file}.jpg"), shot)
        exr(Path(f"{file}.exr"), shot.depth)
        np.savez(f"{file}.npz", intrinsics=shot.intrinsics, cam2world=shot.cam_to_world)
        truth[f"0015/0/{name}"] = shot
    dtype = [("scene_id", "<i8"), ("im1_id", "<i8"), ("im2_id", "<i8"), ("score", "<f8")]
    np.savez(
        root / "all_metadata.npz",
        scenes=np.array(["0001 0", "0015 0"]),
        images=np.array(["elsewhere.jpg", *images]),  # in a scene of which no pair is listed
        pairs=np.array([(1, 1, 2, 0.9), (1, 5, 3, 0.5), (1, 4, 2, 0.7)], dtype=dtype),
    )
    return truth


def habitat(root: Path) -> Truth:
    truth, scene = {}, "hm3d/val/00800-TEEsavR23oF/00000012"
    (root / scene).parent.mkdir(parents=True, exist_ok=True)
    for i, shot in enumerate(shots()):
        name = f"{scene}_{i + 1}"
        image(root / f"{name}.jpeg", shot)
        exr(root / f"{name}_depth.exr", shot.depth, np.float16)
        camera = {
            "camera_intrinsics": shot.intrinsics.tolist(),
            "size": [SIZE[1], SIZE[0]],
            "R_cam2world": shot.cam_to_world[:3, :3].tolist(),
            "t_cam2world": shot.cam_to_world[:3, 3].tolist(),
        }
        (root / f"{name}_camera_params.json").write_text(json.dumps(camera))
        truth[name] = shot
    (root / "Habitat_1000_scenes_train.txt").write_text(scene)
    (root / "Habitat_10000_scenes_train.txt").write_text(f"{scene}\n")
    return truth


def nerfstudio(root: Path) -> Truth:
    truth = {}
    k = shots()[0].intrinsics + HALF
    shared = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "k1": 0.0}
    frames = []
    for i, shot in enumerate(shots()):
        file, depth = f"images/frame_{i:05d}.png", f"depth/frame_{i:05d}.png"
        image(root / file, shot)
        if i == 2:  # kept as numbers
            depth = f"depth/frame_{i:05d}.npy"
            np.save(root / depth, (1000 * shot.depth).astype(np.float32)[..., None])
        else:
            png16(root / depth, 1000 * shot.depth)
        matrix = (shot.cam_to_world @ OPENGL).tolist()
        frames.append({"file_path": file, "depth_file_path": depth, "transform_matrix": matrix})
        truth[f"{root.name}/{file}"] = shot
    content = shared | {"w": SIZE[1], "h": SIZE[0], "camera_model": "OPENCV"}
    (root / "transforms.json").write_text(json.dumps(content | {"frames": frames[::-1]}))
    return truth


def tum(root: Path) -> Truth:
    truth, start = {}, 1305031102.175304
    folder = root / "rgbd_dataset_freiburg3_office"
    lists = {name: [f"# {name}", "# file"] for name in ("rgb", "depth", "groundtruth")}
    for i, shot in enumerate(shots(kinect(535.4, 539.2, 320.1, 247.6))):
        shot = shot.scaled(0.5)  # far points would not fit into 16 bits
        time = start + i / 30
        rgb, depth = f"rgb/{time:.6f}.png", f"depth/{time + 0.008:.6f}.png"
        image(folder / rgb, shot)
        png16(folder / depth, 5000 * shot.depth)
        lists["rgb"].append(f"{time:.6f} {rgb}")
        lists["depth"].append(f"{time + 0.008:.6f} {depth}")
        quaternion = roma.rotmat_to_unitquat(torch.from_numpy(shot.cam_to_world[:3, :3]))
        numbers = [*shot.cam_to_world[:3, 3], *quaternion.tolist()]
        for late, off in ((-0.015, 1.0), (-0.004, 0.0), (0.006, -1.0)):  # the second is nearest
            written = " ".join(f"{number + off:.6f}" for number in numbers)
            lists["groundtruth"].append(f"{time + late:.4f} {written}")
        truth[f"{folder.name}/{rgb}"] = shot
    lists["rgb"].append(f"{start + 9:.6f} rgb/alone.png")  # nothing was measured near it
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return truth


def sevenscenes(root: Path, k: tuple[float, float, float, float] | None = None) -> Truth:
    truth = {}
    for i, shot in enumerate(shots(k or kinect(585, 585, 320, 240))):
        sequence = "seq-01" if i < 3 else "seq-02"
        stem = root / "chess" / sequence / f"frame-{i:06d}"
        image(Path(f"{stem}.color.png"), shot)
        png16(Path(f"{stem}.depth.png"), np.where(shot.depth == 0, 65535, 1000 * shot.depth))
        rows = ["\t ".join(f"{x: .7e}" for x in row) + "\t " for row in shot.cam_to_world]
        Path(f"{stem}.pose.txt").write_text("\n".join(rows) + "\n")
        truth[f"chess/{sequence}/{stem.name}"] = shot
    (root / "chess" / "TrainSplit.txt").write_text("sequence1\n")
    (root / "chess" / "TestSplit.txt").write_text("sequence2 \n")
    return truth


def colmap(root: Path) -> Truth:
    truth, model = {}, pycolmap.Reconstruction()
    k = shots()[0].intrinsics + HALF
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=SIZE[1],
        height=SIZE[0],
        params=[k[0, 0], k[1, 1], k[0, 2], k[1, 2]],
        camera_id=1,
    )
    model.add_camera_with_trivial_rig(camera)
    (root / "stereo" / "depth_maps" / "left").mkdir(parents=True)
    for i, shot in enumerate(shots()):
        name = f"left/{i:04d}.jpg"
        image(root / "images" / name, shot)
        world_to_cam = pycolmap.Rigid3d(np.linalg.inv(shot.cam_to_world)[:3])
        entry = pycolmap.Image(name=name, camera_id=1, image_id=7 - i)
        model.add_image_with_trivial_frame(entry, world_to_cam)
        if i == 4:  # a depth map from elsewhere
            png16(root / "depth" / "left" / f"{i:04d}.png", 1000 * shot.depth)
        else:
            kind = "photometric" if i == 3 else "geometric"
            header = f"{SIZE[1]}&{SIZE[0]}&1&".encode()
            data = header + shot.depth.astype("<f4").tobytes()
            (root / "stereo" / "depth_maps" / f"{name}.{kind}.bin").write_bytes(data)
        truth[f"{root.name}/{name}"] = shot
    (root / "sparse" / "0").mkdir(parents=True)
    model.write_binary(str(root / "sparse" / "0"))
    return truth


WRITERS: dict[str, Callable[[Path], Truth]] = {
    "scannetpp": scannetpp,
    "co3d": co3d,
    "blendedmvs": blendedmvs,
    "megadepth": megadepth,
    "habitat": habitat,
    "nerfstudio": nerfstudio,
    "tum": tum,
    "7scenes": sevenscenes,
    "colmap": colmap,
}
