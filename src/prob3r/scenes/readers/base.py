"""Reader: the base class of all layouts of data sets. A new layout is one subclass."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from prob3r.errors import Prob3rError
from prob3r.geometry import relative_pose, rotation_angle
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers.corrupt import CorruptCount, CorruptError
from prob3r.scenes.readers.covisible import neighbours, pairs_by_overlap
from prob3r.scenes.readers.files import reason_of
from prob3r.scenes.readers.frames import Frames
from prob3r.scenes.readers.items import Items
from prob3r.scenes.views import Pair

logger = logging.getLogger(__name__)

READERS: dict[str, type["Reader"]] = {}
"""The readers by the name of their layout."""


class Listing(NamedTuple):
    """The frames of a data set, and its list of pairs if it has one.

    Attributes:
        names: Names of the frames, each unique.
        scenes: Scene of each frame. Pairs are frames of one scene.
        pairs: The data set's own list of pairs, two frame numbers a row, view 1 first; None if it
            has no list.
    """

    names: Sequence[str]
    scenes: Sequence[str]
    pairs: npt.NDArray[Any] | None = None


class Reader(Frames, Items):
    """The pairs of a data set on disk, in one layout.

    A subclass names its layout, `class Mine(Reader, layout="mine")`, and defines `marker`,
    `listing`, `image`, `depth_file` and `camera`. If the data set has no depth, the subclass sets
    `has_depth = False` and needs no `depth_file`. At first, only the listing is read. Images, depth
    and cameras are read when a pair is read. If the data set has no list of pairs, the pairs are
    frames of one scene that see the same surfaces (see `prob3r.scenes.readers.covisible`). Without
    depth, they are successive frames of an evenly spaced selection.

    Args:
        path: The data set's folder, or a file or folder that matches `marker`.
        model: The model that the images are framed for, or a `Framing`.
        strict: Whether to refuse a data set without overlapping frames, or with more than 1 % of
            corrupt frames. If not strict, neighbouring frames become the pairs of a data set
            without overlapping frames, so that it can be checked.
        seek: Whether to look for pairs. If not, `pairs` is empty; use `prob3r.scenes.readers.sets`
            to read frames.

    Attributes:
        names: Names of the frames.
        scenes: Scene of each frame.
        pairs: The pairs, two frame numbers a row.
        corrupt: Errors of the frames that could not be used in the search for pairs.

    Raises:
        Prob3rError: The folder is not in this layout, or holds no pair.
    """

    marker: ClassVar[str]
    """Glob pattern of the file or folder that identifies the layout, in the data set's folder or in
    a subfolder of it."""
    pairwise: ClassVar[bool] = False
    """Whether only the relative pose of each listed pair is known, not poses in a common frame."""

    def __init_subclass__(cls, layout: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if layout is not None:
            cls.layout = layout
            READERS[layout] = cls

    def __init__(
        self,
        path: str | Path,
        model: Framing | FramesImages,
        *,
        strict: bool = True,
        seek: bool = True,
    ) -> None:
        path = Path(path)
        if not path.exists():
            raise Prob3rError(
                f"{path} does not exist; give a data set in the {self.layout} layout."
            )
        found = self.found(path)
        if not found:
            raise Prob3rError(
                f"{path} is not in the {self.layout} layout: there is no {self.marker} in it."
            )
        self.root = path if path.is_dir() and path not in found else path.parent
        self.framing = Framing.of(model)
        try:
            self.names, self.scenes, pairs = self.listing(found)
        except Prob3rError:
            raise
        except Exception as error:  # a damaged list fails in many ways
            raise Prob3rError(
                f"{path} cannot be read in the {self.layout} layout ({reason_of(error)})."
            ) from error
        self.corrupt: list[CorruptError] = []
        if not seek:
            self.pairs = np.empty((0, 2), dtype=np.int32)
            return
        if pairs is None and not self.has_depth:
            pairs = neighbours(self.scenes, self.frames_per_scene)
        if pairs is None:
            pairs, looked_at, self.corrupt = pairs_by_overlap(self)
            corrupt = CorruptCount(looked_at)
            for item in self.corrupt if strict else ():
                corrupt.add(item)
            if not len(pairs) and not strict:
                logger.warning("No two frames of %s overlap; its pairs are neighbours.", path)
                pairs = neighbours(self.scenes)
        self.pairs = np.asarray(pairs, dtype=np.int32).reshape(-1, 2)
        if not len(self.pairs):
            raise Prob3rError(
                f"{path} holds no pair: its list is empty, or no two of its {len(self.names)} "
                "frames see enough of the same surfaces."
            )
        if self.pairs.min() < 0 or self.pairs.max() >= len(self.names):
            raise Prob3rError(
                f"{path} lists pairs of frames that it does not have; it has {len(self.names)}."
            )

    @classmethod
    def found(cls, path: Path) -> list[Path]:
        """Return the matches of `marker`: the path itself, else in it, else in its subfolders."""
        if path.match(cls.marker) and path.exists():
            return [path]
        return sorted(path.glob(cls.marker)) or sorted(path.glob(f"*/{cls.marker}"))

    @abstractmethod
    def listing(self, found: list[Path]) -> Listing:
        """Read the names of the frames, and the pairs if the data set lists them.

        Args:
            found: What `marker` matches.
        """

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Pair:
        """Read one pair, as a batch of one named after its frames."""
        first, second = self.frames_of(index)
        names = (f"{self.names[first]}, {self.names[second]}",)
        return Pair(self.view(first), self.view(second), names, (self.scenes[first],))

    def frames_of(self, index: int) -> tuple[int, int]:
        """Return the numbers of a pair's frames."""
        first, second = self.pairs[index].tolist()
        return first, second

    def rotation(self, index: int) -> float:
        """Return the angle between a pair's cameras, in degrees, without reading its images."""
        poses = (self.checked_camera(frame).cam_to_world for frame in self.frames_of(index))
        return float(rotation_angle(relative_pose(*poses)[:, :3, :3]))
