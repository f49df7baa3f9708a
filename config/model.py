"""The one model that every configuration is checked against.

It holds names, units and ranges; the values themselves stand in the YAML files beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, StringConstraints(min_length=1)]
ClassPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"),
    Field(description="a dotted path of a class, like devices.stage.Stage"),
]
DriverPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_]\w*(\.\w+)*(:[A-Za-z_]\w*)?$"),
    Field(description="simulated, replay, or package.module:factory"),
]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values cannot be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Epics(Section):
    """How Channel Access is served and found."""

    prefix: Text = Field(description="what the names of all process variables begin with")
    port: Port = Field(description="port of our own IOC")
    interfaces: list[Text] = Field(min_length=1, description="addresses our own IOC binds to")
    addresses: list[Text] = Field(description="further servers to search, as host or host:port")
    connection_timeout: Seconds = Field(description="to find a process variable, in s")


class Ioc(Section):
    """The IOC that temline starts itself, if the instrument needs one."""

    driver: DriverPath | None = Field(description="null where others serve the hardware")
    options: dict[str, Any] = Field(description="handed to the driver as they are")
    groups: list[Literal["scope", "stage", "camera", "sequencer", "faults"]] = Field(
        min_length=1, description="what it serves; other processes may serve the rest"
    )
    start_timeout: Seconds = Field(description="until its first process variable answers, in s")


class Device(Section):
    """One device: its class, its process variables, and what else its class wants to know."""

    class_: ClassPath = Field(alias="class")
    prefix: Text = Field(description="of its process variables; {prefix} stands for epics.prefix")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments; {data} stands for data.folder"
    )


class Tiled(Section):
    """The data service: where it listens, or where a shared one is."""

    host: Text = Field(description="address our own server binds to")
    port: Port
    folder: Path = Field(description="catalogue, tables and arrays of our own server")
    uri: Text | None = Field(description="of a server run by others; null to use our own")
    backup: Path = Field(description="runs that could not be written; `temline replay` writes them")
    start_timeout: Seconds = Field(description="until our own server answers, in s")


class Data(Section):
    """Where frames and processed arrays are written."""

    folder: Path
    minimum_free_gb: Annotated[float, Field(ge=0)] = Field(description="below it, a warning")


class Dask(Section):
    """The cluster, if tiles are processed by Dask."""

    address: Text | None = Field(
        description="of its scheduler, like tcp://host:8786; null for a cluster on this machine"
    )
    timeout: Seconds = Field(description="until its scheduler answers, in s")


class Processing(Section):
    """How tiles are processed beside the acquisition."""

    executor: Literal["threads", "processes", "dask"]
    workers: Annotated[int, Field(ge=1, le=256)]
    dask: Dask
    job_timeout: Seconds = Field(
        description="of one job in a process or a cluster; then its worker is replaced, in s"
    )
    steps: list[Text | dict[Text, dict[str, Any]]] = Field(
        description="of the chain, in order: names, or a name with its options"
    )
    write: list[Text] | None = Field(
        description="arrays of each tile that are kept: frame, or what steps make; null for all"
    )
    freedom: Literal["auto", "translation", "affine", "lens", "affine+lens"] = Field(
        description="what tiles may do when a montage is solved; auto: what matches bear out"
    )
    max_offset: Annotated[int, Field(ge=8, le=4096)] = Field(
        description="how far a neighbour may lie from its nominal place, in px"
    )
    timeout: Seconds = Field(description="to finish processing after the last tile, in s")


class Quality(Section):
    """From where on a tile fails; as `processing.quality.Thresholds` names and explains them.

    What is relative is a fraction of the median of the montage's good tiles so far.
    """

    least_mean: Annotated[float, Field(ge=0)] = Field(description="in counts")
    least_mean_relative: Fraction
    most_saturated: Fraction = Field(description="share of pixels")
    most_beam_edge: Fraction = Field(description="share of the tile in or beyond the beam's edge")
    most_obstructed: Fraction = Field(description="share of the tile behind something opaque")
    least_focus: Fraction = Field(description="focus score")
    least_focus_neighbour: Fraction = Field(
        description="fine over coarse detail, of its neighbours' in the overlaps and as a whole"
    )
    least_focus_relative: Fraction
    most_astigmatism: Fraction
    most_drift: Annotated[float, Field(ge=0)] = Field(description="in the exposure, in px")
    most_offset: Annotated[float, Field(ge=0)] = Field(description="from the nominal place, in px")
    least_tiles: Annotated[int, Field(ge=1)] = Field(description="that a median must rest on")
    persistent_tiles: Annotated[int, Field(ge=1)] = Field(description="in a row, same fault")
    critical_tiles: Annotated[int, Field(ge=1)] = Field(description="in a row: the run is stopped")
    trend_tiles: Annotated[int, Field(ge=1)] = Field(description="that show a trend of the focus")
    least_trend: Fraction = Field(description="of the earlier focus; below it, focus again")
    most_failed: Fraction = Field(description="share of a montage's tiles")
    most_unmatched: Fraction = Field(description="share of the textured pairs of neighbours")
    least_contrast: Fraction = Field(description="median of standard deviation over mean")
    most_focus_spread: Annotated[float, Field(ge=0)] = Field(description="relative to the median")
    most_residual: Annotated[float, Field(ge=0)] = Field(
        description="that neighbours disagree by, median over all matches, in px"
    )
    most_disagreement: Annotated[float, Field(ge=0)] = Field(
        description="the same of 95 of 100 matches on loops that close, in px"
    )
    most_torn: Annotated[float, Field(ge=0)] = Field(
        description="the same of any match on a loop that closes, in px"
    )
    most_rejected: Fraction = Field(description="share of the matches that the solver leaves out")
    most_unplaced: Fraction = Field(
        description="share of the tiles that no match ties to the largest set"
    )


class References(Section):
    """How bright and dark frames are taken."""

    frames: Annotated[int, Field(ge=1, le=1000)]
    place: tuple[float, float] | None = Field(
        description="stage [x, y] in µm with nothing of the specimen in view; null if there is none"
    )
    pitch: Annotated[float, Field(ge=0, le=1000)] = Field(
        description="in µm; without a clear place the stage moves by it, to average specimen out"
    )


class Lens(Section):
    """How the lens's distortion is fitted, and what a fit must keep to be accepted."""

    degree: Literal["auto"] | Annotated[int, Field(ge=2, le=9)] = Field(
        description="of the polynomial; auto: what tells pairs of tiles best that are held out"
    )
    most_mean: Annotated[float, Field(ge=0)] = Field(description="mean residual, in px")
    most_std: Annotated[float, Field(ge=0)] = Field(description="of the residuals, in px")
    most_scale_error: Fraction = Field(description="of the tiles' places against the stage's")
    least_inliers: Fraction = Field(description="share of the matches that must agree")


class Montage(Section):
    """Defaults of a montage; any can be given in the call."""

    overlap: Annotated[float, Field(ge=0, le=90)] = Field(description="in %")
    min_overlap: Annotated[float, Field(ge=0)] = Field(description="in µm")
    pattern: Literal["raster", "serpentine", "blocks"]
    block: Annotated[int, Field(ge=1, le=15)] = Field(description="tiles along a block's side")
    settle: Annotated[float, Field(ge=0, le=60)] = Field(description="after a move, in s")
    exposure: Annotated[float, Field(gt=0, le=60)] = Field(description="in s")
    focus: Literal["none", "once", "row", "plane", "surface"] | Annotated[int, Field(ge=1)] = Field(
        description="none, once, row, plane, surface, or every n tiles"
    )
    retakes: Annotated[int, Field(ge=0, le=10)] = Field(description="of a tile that failed")
    max_behind: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="tiles taken but not judged; beyond it the montage waits"
    )


class ImageShift(Section):
    """The calibration of the image shift; as `processing.geometry.ImageShift` explains it."""

    rotation: Annotated[float, Field(ge=-360, le=360)] = Field(
        description="from its axes to the stage's, counter-clockwise, in degrees"
    )
    scale: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="µm at the specimen for a µm of the setting"
    )
    most_shift: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="at the specimen, in µm; beyond it coma is too large"
    )


class Records(Section):
    """The database of requests, samples and reviews."""

    url: Text | None = Field(
        description="as SQLAlchemy has it; null for SQLite in `folder`. One with a password comes "
        "from the environment: TEMLINE_RECORDS__URL"
    )


class Control(Section):
    """Who may command, and how long one keeps control."""

    require_token: bool = Field(description="whether commands over Channel Access need a token")
    idle_timeout: Annotated[float, Field(gt=0)] = Field(
        description="without a command, until control is lost, in s"
    )
    ask_timeout: Annotated[float, Field(gt=0)] = Field(
        description="until who asks for control gets it, if nobody answers, in s"
    )


class Deadlines(Section):
    """What an immediate command may take, until the next harsher one follows, in s."""

    pause: Annotated[float, Field(gt=0)] = Field(description="then abort")
    resume: Annotated[float, Field(gt=0)] = Field(description="then abort")
    stop_after_request: Annotated[float, Field(gt=0)] = Field(description="then stop_after_tile")
    stop_after_tile: Annotated[float, Field(gt=0)] = Field(description="then abort")
    abort: Annotated[float, Field(gt=0)] = Field(description="then halt")
    halt: Annotated[float, Field(gt=0)] = Field(description="then the plan worker is killed")


class Suspend(Section):
    """A signal that holds plans up while it is beyond a threshold."""

    signal: Text = Field(description="a part of a device, like scope.vacuum")
    above: float | None = Field(default=None, description="plans are suspended above it")
    below: float | None = Field(default=None, description="or below it")
    resume: float | None = Field(default=None, description="and go on once it is here again")
    sleep: Annotated[float, Field(ge=0)] = Field(default=0.0, description="and stays so, in s")

    @model_validator(mode="after")
    def _has_one_threshold(self) -> Suspend:
        if (self.above is None) == (self.below is None):
            raise ValueError("either above or below must be given")
        return self


class Supervisor(Section):
    """The server that takes commands by process variables and by HTTP, and runs plans."""

    enabled: bool = Field(description="whether `temline up` starts it")
    port: Port = Field(description="of its process variables")
    http_host: Text = Field(description="address its HTTP interface binds to")
    http_port: Port
    start_timeout: Seconds = Field(description="until its plan worker is ready, in s")
    hang_timeout: Seconds = Field(
        description="without an answer of the plan worker; then it is replaced, in s"
    )
    most_queued: Annotated[int, Field(ge=1)] = Field(description="requests that may wait")
    hold_on_failure: bool = Field(description="whether the queue is held when a request fails")
    proposals: list[Text] | None = Field(description="that may be named; null for any")
    require_proposal: bool
    control: Control
    deadlines: Deadlines
    suspend: list[Suspend]
    safe: dict[str, int | float | str] = Field(
        description="process variables, less the prefix, that make the hardware safe, in order"
    )


class Log(Section):
    """Where and how much is logged."""

    folder: Path
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Config(Section):
    """The whole configuration of one instrument."""

    instrument: Text = Field(description="name of the instrument, in every start document")
    operator: str = Field(description="who runs it; empty for the login name")
    folder: Path = Field(description="lock, keys and other files of a running temline")
    epics: Epics
    ioc: Ioc
    devices: dict[str, Device]
    baseline: list[Text] = Field(description="devices, or parts of them, read at each run's ends")
    tiled: Tiled
    data: Data
    processing: Processing
    quality: Quality
    references: References
    lens: Lens
    montage: Montage
    image_shift: ImageShift
    records: Records
    supervisor: Supervisor
    log: Log

    @field_validator("devices")
    @classmethod
    def _names_are_identifiers(cls, devices: dict[str, Device]) -> dict[str, Device]:
        for name in devices:
            if not name.isidentifier():
                raise ValueError(f"device name {name!r} is not a Python name")
        return devices

    @property
    def records_url(self) -> str:
        """Address of the database of requests."""
        return self.records.url or f"sqlite:///{self.folder.absolute() / 'records.db'}"

    def device_prefix(self, name: str) -> str:
        """Give the full prefix of a device's process variables."""
        return self.devices[name].prefix.replace("{prefix}", self.epics.prefix)

    def device_options(self, name: str) -> dict[str, Any]:
        """Give the keyword arguments of a device's class."""
        folder = str(self.data.folder.absolute())
        return {
            key: value.replace("{data}", folder) if isinstance(value, str) else value
            for key, value in self.devices[name].options.items()
        }
