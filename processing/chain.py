"""The chain: the steps that a tile goes through between the camera and the disk, by name.

Steps are configured, can be left out, and a site adds its own; each says what it makes and needs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from processing.flatfield import References
from processing.geometry import FrameGeometry
from processing.lens import LensMap
from processing.masks import check_mask
from processing.matching import MatchTile, Side

ENTRY_POINTS = "temline.steps"
PAGE = 4096  # bytes; where a direct write to a disk may begin, in memory and in the file
# Where the built-in steps are; they are imported when a chain wants them.
BUILT_IN: Mapping[str, str] = {
    "flip": "processing.steps:Flip",
    "flat_field": "processing.steps:FlatField",
    "mask": "processing.steps:Mask",
    "statistics": "processing.steps:Statistics",
    "focus": "processing.steps:Focus",
    "light": "processing.steps:Light",
    "lens": "processing.steps:Lens",
    "match": "processing.steps:Edges",
    "pyramid": "processing.steps:Pyramid",
    "equalise": "processing.steps:Equalise",
    "preview": "processing.steps:preview",
    "mini": "processing.steps:mini",
}


@dataclass(frozen=True)
class Figure:
    """How a number that a step measures is described where it is published.

    Attributes
    ----------
    units : str
    precision : int
        Digits after the point that are worth showing.
    kind : {"number", "integer", "boolean"}
    """

    units: str = ""
    precision: int = 3
    kind: Literal["number", "integer", "boolean"] = "number"


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of an array that a step makes of each tile."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """How many bytes one takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Buffers:
    """Arrays of one thread that are used again for each tile.

    A new array of some megabytes costs as much as writing to it twice: its pages are made on first
    touch. Each begins at a page, as a direct write to a disk needs it.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give the array of a name, with whatever it holds; a new one if shape or type differ."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != dtype:
            held = self._held[name] = _on_a_page(shape, np.dtype(dtype))
        return held


def _on_a_page(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + size].view(dtype).reshape(shape)


class _OwnBuffers(threading.local):
    def __init__(self) -> None:
        self.buffers = Buffers()


_own = _OwnBuffers()


def thread_buffers() -> Buffers:
    """Give the buffers of the thread that calls."""
    return _own.buffers


@dataclass(eq=False)
class TileState:
    """A tile on its way through the chain; steps replace what is there and add to it.

    Arrays may lie in `buffers`: they hold until the same thread begins with the next tile.

    Attributes
    ----------
    raw : ndarray of uint8 or uint16, shape (height, width)
        Counts as the camera gave them, in the orientation of `image`.
    image : ndarray of uint16, shape (height, width)
        The tile as it is now; begins as `raw`.
    geometry : FrameGeometry
        Of `image`.
    references : References or None
        None: no flat field.
    reference_age : float
        How old the references are, in h; NaN if that is not known.
    lens : LensMap or None
        None: no lens correction.
    widths : mapping of {"top", "bottom", "left", "right"} to float
        The sides that have a neighbour, and how far the two may overlap, in px.
    mask : ndarray of bool, shape (height, width), or None
        True where `image` holds no signal; None: it does everywhere, or that is yet to be found.
    figures : dict
        What was measured, by name.
    arrays : dict
        What was made to be published, by name.
    edges : dict
        What matching needs, for each of the sides in `widths`.
    counts : ndarray of uint32, shape (65536,), or None
        Pixels of each value in the flat-fielded image, where it holds signal.
    equalised : ndarray of uint8 or None
        The tile at a quarter of its resolution as it is best shown.
    buffers : Buffers
    """

    raw: NDArray[Any]
    image: NDArray[np.uint16] = field(init=False)
    geometry: FrameGeometry
    references: References | None = None
    reference_age: float = float("nan")
    lens: LensMap | None = None
    widths: Mapping[Side, float] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    figures: dict[str, float | bool] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    edges: dict[Side, MatchTile] = field(default_factory=dict)
    counts: NDArray[np.uint32] | None = None
    equalised: NDArray[np.uint8] | None = None
    buffers: Buffers = field(default_factory=thread_buffers, repr=False)

    def __post_init__(self) -> None:
        if self.raw.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"frame is {self.raw.dtype}; it must be uint8 or uint16")
        if self.raw.ndim != 2:
            raise ValueError(f"frame has shape {self.raw.shape}; it must be (height, width)")
        if self.mask is not None:
            check_mask(self.mask, self.raw.shape)
        self.image = self.raw if self.raw.dtype == np.uint16 else self.raw.astype(np.uint16)


class Step:
    """One step of the chain; derive from it, and override what applies.

    A step has no state of its own beyond its options: several threads use it at once.

    Attributes
    ----------
    figures : mapping of str to Figure
        What it adds to `TileState.figures`.
    needs : collection of str
        Figures, arrays, or fields of `TileState` that an earlier step must have made.
    makes : collection of str
        Fields of `TileState` that it fills for later steps.
    corrects : bool
        Whether it changes the image's pixels, not only measures them.
    """

    figures: Mapping[str, Figure] = {}
    needs: Collection[str] = ()
    makes: Collection[str] = ()
    corrects: bool = False

    def arrays(self, shape: tuple[int, int]) -> Mapping[str, ArraySpec]:
        """Tell what it adds to `TileState.arrays` for tiles of a (height, width) in px."""
        return {}

    def geometry(self, geometry: FrameGeometry) -> FrameGeometry:
        """Give the geometry of a tile after this step."""
        return geometry

    def __call__(self, tile: TileState) -> None:
        """Do it."""
        raise TypeError(f"{type(self).__name__} must define __call__(tile)")


@dataclass(frozen=True)
class StepSettings:
    """A step by name, and its options: hashable, and small to send to a worker.

    Examples
    --------
    >>> StepSettings("statistics", (("bit_depth", 12),))
    StepSettings(name='statistics', options=(('bit_depth', 12),))
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()


DEFAULT_STEPS = tuple(map(StepSettings, BUILT_IN))


class StepError(ValueError):
    """A chain cannot be made of the steps that were asked for; the message says what to change."""


class Chain:
    """Steps in their order.

    Parameters
    ----------
    steps : mapping of str to Step
        By name, in order.

    Raises
    ------
    StepError
        If a step needs what none before it makes, or two make the same.
    """

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self.steps = dict(steps)
        made: dict[str, str] = {}
        for name, step in self.steps.items():
            missing = [need for need in step.needs if need not in made]
            if missing:
                raise StepError(
                    f"the step {name} needs {', '.join(missing)}, which no step before it makes: "
                    f"put {_makers(missing)} before it, or leave it out"
                )
            for product in _products(step):
                if product in made:
                    raise StepError(
                        f"the steps {made[product]} and {name} both make {product}: "
                        "leave one of them out"
                    )
                made[product] = name

    @property
    def figures(self) -> dict[str, Figure]:
        """What all steps measure, by name, in their order."""
        return {name: kind for step in self.steps.values() for name, kind in step.figures.items()}

    def arrays(self, shape: tuple[int, int]) -> dict[str, ArraySpec]:
        """Tell what all steps make to be published of a tile of (height, width) in px."""
        return {
            name: spec for step in self.steps.values() for name, spec in step.arrays(shape).items()
        }

    def geometry(self, geometry: FrameGeometry) -> FrameGeometry:
        """Give the geometry of processed tiles from that of raw ones."""
        for step in self.steps.values():
            geometry = step.geometry(geometry)
        return geometry

    @property
    def corrections(self) -> Chain:
        """The steps that change pixels, and what they need: all for a tile that is read again."""
        kept: dict[str, Step] = {}
        needed: set[str] = set()
        for name, step in reversed(self.steps.items()):
            if step.corrects or needed.intersection(_products(step)):
                kept[name] = step
                needed |= set(step.needs)
        return Chain(dict(reversed(kept.items())))

    def __call__(self, tile: TileState) -> None:
        """Take a tile through all steps."""
        for step in self.steps.values():
            step(tile)
            tile.geometry = step.geometry(tile.geometry)


def make_chain(steps: Sequence[StepSettings]) -> Chain:
    """Make a chain of steps by their names; the same object for the same steps.

    Parameters
    ----------
    steps : sequence of StepSettings
        Built-in steps (`BUILT_IN`), or entry points of the group ``temline.steps``, in order.

    Returns
    -------
    Chain

    Raises
    ------
    StepError
        If a name is not known or comes twice, an option is not, or a step needs what none before
        it makes.
    """
    return _make_chain(tuple(steps))


@lru_cache(maxsize=8)
def _make_chain(steps: tuple[StepSettings, ...]) -> Chain:
    made: dict[str, Step] = {}
    for settings in steps:
        if settings.name in made:
            raise StepError(f"the step {settings.name} comes twice in the chain")
        made[settings.name] = _make_step(settings)
    return Chain(made)


def _make_step(settings: StepSettings) -> Step:
    factory = _find(settings.name)
    try:
        step = factory(**dict(settings.options))
    except (TypeError, ValueError) as error:
        raise StepError(f"the step {settings.name} cannot be made: {error}") from error
    if not isinstance(step, Step):
        raise StepError(
            f"the step {settings.name} is a {type(step).__name__}; "
            "it must derive from processing.chain.Step"
        )
    return step


def _find(name: str) -> Any:
    """Find the class of a step: a built-in one, or a site's."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    sites = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in sites:
        return sites[name].load()
    known = [*BUILT_IN, *sites]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise StepError(f"there is no step {name!r}; {hint}")


def _products(step: Step) -> list[str]:
    """Name all that a step makes."""
    # The names of arrays do not depend on the shape of a tile that is large enough.
    return [*step.figures, *step.arrays((4096, 4096)), *step.makes]


def _makers(products: Collection[str]) -> str:
    """Name the built-in steps that make some products."""
    makers = [
        name
        for name in BUILT_IN
        if {*products}.intersection(_products(_make_step(StepSettings(name))))
    ]
    return " and ".join(makers) or "a step that does"
