"""`temline demo`: the whole road, from a virtual section to a stitched mosaic in Tiled.

It is also the first check of an installation: it ends with an error if any part does not work.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from config import Config, load
from config.loader import SIMULATOR
from services.environment import set_environment
from services.errors import PlainError
from services.interrupts import Interrupts
from services.launcher import Launcher
from services.logs import set_up_logging
from services.processes import services_of, tiled_access, warn_of_full_disk
from services.runtime import Instance, free_ports

if TYPE_CHECKING:
    from services.report import Figures

log = logging.getLogger(__name__)

OVERLAP_PX = 150.0  # neighbours of small tiles must still share enough to be matched
SHORT_OF_GRID = 0.3  # the region is that part of a pitch smaller than its grid
CUT = 2.03  # a cut is a little over twice as long as what a tile in the corner covers


class DemoError(PlainError):
    """The demo could not do its work; the message says why and what to look at."""


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for."""

    rows: int = 6
    columns: int = 6
    tile_size: int = 2048
    specimen: Path | None = None
    pixel_size: float | None = None
    seed: int = 1
    json_file: Path | None = None
    leave: bool = False


def octagon(rows: int, columns: int, pitch: float, side: float) -> list[tuple[float, float]]:
    """Give the outline of a region that needs rows × columns tiles, less some corners.

    Where there is room all four corners are cut; on a smaller grid two opposite ones, or none.

    Parameters
    ----------
    rows, columns : int
    pitch, side : float
        Distance between tiles, and side of a tile, in px.

    Returns
    -------
    list of (float, float)
        (row, column) in px about the middle, in order.
    """
    bottom, right = ((side + (count - 1 - SHORT_OF_GRID) * pitch) / 2 for count in (rows, columns))
    # The inner corner of a tile in the grid's corner lies just beyond a cut of this length.
    leg = CUT * (side - SHORT_OF_GRID * pitch / 2)
    shortest_edge = 2 * min(bottom, right)
    cut = leg if leg < shortest_edge else 0.0
    cut_all = leg if 2 * leg < shortest_edge else 0.0
    corners = ((-1, -1, cut), (-1, 1, cut_all), (1, 1, cut), (1, -1, cut_all))
    outline = []
    for vertical, across, leg in corners:
        row, column = vertical * bottom, across * right
        if leg == 0:
            outline.append((row, column))
            continue
        along_side, along_edge = (row - vertical * leg, column), (row, column - across * leg)
        # Clockwise from the top left: a corner is reached along its side or along its edge.
        outline += [along_side, along_edge] if vertical == across else [along_edge, along_side]
    return outline


def overlap_percent(tile_size: int, default: float) -> float:
    """Give the overlap in percent: the default, or more for tiles too small for it."""
    return max(default, 100 * OVERLAP_PX / tile_size if tile_size < 1024 else 0.0)


def run_demo(options: DemoOptions) -> None:
    """Run the demo and print what came out.

    Raises
    ------
    DemoError, SpecimenError, LaunchError, AlreadyRunningError, KeyboardInterrupt
    """
    console = Console()
    with Interrupts() as interrupts, ExitStack() as stack:
        epics_port, tiled_port = free_ports(2)
        overrides: dict[str, Any] = {
            "epics": {"port": epics_port},
            "tiled": {"port": tiled_port, "uri": None},
        }
        config = _demo_config(options, overrides)
        stack.enter_context(Instance(config.folder, "temline demo", overrides))
        set_environment(config)
        set_up_logging(config.log.folder, "demo", config.log.level, console)
        warn_of_full_disk(config)
        launcher = stack.enter_context(Launcher(config.log.folder, before_stop=interrupts.shield))
        demo = _Demo(options, config, console, interrupts, launcher)
        figures = demo.acquire(stack)
        demo.show(figures)
        if options.json_file is not None:
            options.json_file.write_text(figures.to_json() + "\n", encoding="utf-8")
        if not options.leave:
            demo.stay()


def _demo_config(options: DemoOptions, overrides: dict[str, Any]) -> Config:
    """Give the configuration of the demo: the simulator's, on free ports."""
    specimen = options.specimen
    if specimen is not None and not specimen.is_file():
        raise DemoError(f"--specimen {specimen}: there is no such file")
    truth = truth_log(load(SIMULATOR).config)
    truth.parent.mkdir(parents=True, exist_ok=True)
    truth.unlink(missing_ok=True)
    simulated: dict[str, Any] = {
        "seed": options.seed,
        "specimen": "neuropil" if specimen is None else str(specimen.absolute()),
        "specimen_pixel_size": options.pixel_size,
        "sensor": [options.tile_size, options.tile_size],
        "truth_log": str(truth.absolute()),
    }
    # A user's image has no clear place: it is mirrored beyond its edges.
    references = {} if specimen is None else {"references": {"place": None}}
    return load(
        SIMULATOR,
        overrides=overrides | references | {"ioc": {"driver": "simulated", "options": simulated}},
        overrides_from="temline demo",
    ).config


def truth_log(config: Config) -> Path:
    """Give the file in which the simulator writes what was behind each frame."""
    return config.folder / "demo" / "truth.jsonl"


class _Demo:
    """The steps of the demo."""

    def __init__(
        self,
        options: DemoOptions,
        config: Config,
        console: Console,
        interrupts: Interrupts,
        launcher: Launcher,
    ) -> None:
        self._options = options
        self._config = config
        self._console = console
        self._interrupts = interrupts
        self._launcher = launcher
        self._RE: Any = None

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """Say what is being done, how long it took, and let Ctrl-C through at its end."""
        begun = time.monotonic()
        with self._console.status(f"{what} …"):
            yield
        self._interrupts.check()
        self._console.print(f"{what:<46} {time.monotonic() - begun:5.1f} s", highlight=False)

    def acquire(self, stack: ExitStack) -> Figures:
        """Start everything, take the montage, and wait until it is processed."""
        config = self._config
        with self._step("Starting the microscope's IOC, Tiled and the RunEngine"):
            self._launcher.start(*services_of(config))
            # Meanwhile; what they import reads the EPICS environment.
            from callbacks.live import MontageProgress
            from services.engine import (
                add_baseline,
                connect_devices,
                make_devices,
                make_pipeline,
                make_run_engine,
            )
            from services.report import Recorder, montage_figures, read_truth

            self._RE = make_run_engine(config, context_managers=[], call_returns_result=True)
            self._launcher.wait()
        with self._step("Connecting devices and processing"):
            devices = make_devices(config)
            if problems := connect_devices(devices, config.ioc.start_timeout):
                reasons = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
                raise DemoError(f"not connected: {reasons}. See {config.log.folder}/ioc.log")
            add_baseline(self._RE, config, devices)
            raw, processed = Recorder("montage"), Recorder("process_montage")
            progress = MontageProgress(self._console)
            pipeline = make_pipeline(config, [processed, progress])
            stack.callback(pipeline.close, 10.0)
            pipeline.subscribe(self._RE)
            self._RE.subscribe(raw)
            self._RE.subscribe(progress)

        begun = time.monotonic()
        self._acquire_with(devices, pipeline)
        with self._step("Solving the montage and writing the mosaic"):
            if not pipeline.tiles.wait(config.processing.timeout):
                raise DemoError(
                    f"the tiles were not processed within {config.processing.timeout:g} s"
                )
        seconds = time.monotonic() - begun
        with self._step("Writing the last documents to Tiled"):
            pipeline.sink.flush(60.0)
        return montage_figures(raw, processed, read_truth(truth_log(config)), seconds)

    def _acquire_with(self, devices: dict[str, Any], pipeline: Any) -> None:
        from plans import autofocus, montage
        from services.configured_plans import montage_defaults, take_references

        camera, stage, scope = devices["camera"], devices["stage"], devices["scope"]
        settings = self._config.montage
        overlap = overlap_percent(self._options.tile_size, settings.overlap)
        with self._step("Autofocus"):
            self._run(autofocus(camera, scope, exposure=settings.exposure))
        with self._step("Bright and dark field"):
            references = self._run(take_references(camera, stage, scope, self._config))
        self._run(
            montage(
                camera,
                stage,
                scope,
                self._region(scope, overlap),
                **montage_defaults(self._config) | {"overlap": overlap},
                references=references,
                gate=pipeline.quality,
                sample="virtual section",
            )
        )

    def _run(self, plan: Any) -> Any:
        """Run a plan to its end; Ctrl-C aborts it, so that it leaves the microscope safe."""
        from bluesky.utils import RunEngineInterrupted, TransitionError

        over = threading.Event()

        def abort() -> None:
            while not over.is_set():
                try:
                    self._RE.abort("Ctrl-C")
                    return
                except TransitionError:  # it is about to start, or to end
                    over.wait(0.05)

        try:
            with self._interrupts.calling(abort):
                result = self._RE(plan)
        except RunEngineInterrupted:
            raise KeyboardInterrupt from None
        except Exception as error:
            log.info("a plan failed", exc_info=True)
            raise DemoError(
                f"the acquisition failed: {error}\n"
                f"See demo.log and ioc.log in {self._config.log.folder}/"
            ) from error
        finally:
            over.set()
        self._interrupts.check()
        return result.plan_result

    def _region(self, scope: Any, overlap: float) -> dict[str, Any]:
        """Give the region of the montage, as the microscope sees it."""
        from processing.geometry import FrameGeometry

        geometry = FrameGeometry(
            scope.pixel_size.get(),
            scope.rotation.get(),
            bool(scope.flip_columns.get()),
            bool(scope.flip_rows.get()),
        )
        side = float(self._options.tile_size)
        outline = octagon(
            self._options.rows, self._options.columns, side * (1 - overlap / 100), side
        )
        return {"vertices": geometry.stage_vector(outline).tolist()}

    def show(self, figures: Figures) -> None:
        """Print the figures, and how to look at the mosaic."""
        uri, key = tiled_access(self._config)
        self._console.print(figures_table(figures))
        self._console.print(
            f"\nIn a browser:  {uri}/ui/browse/{figures.processed_uid}"
            f"/mosaic/thumbnail?api_key={key}\n"
            "In Python:\n\n"
            "    from tiled.client import from_uri\n"
            f'    runs = from_uri("{uri}", api_key="{key}")\n'
            f'    run = runs["{figures.processed_uid}"]\n'
            '    mosaic = run["mosaic"]["mosaic_0"][0]\n',
            highlight=False,
            soft_wrap=True,
        )

    def stay(self) -> None:
        """Keep IOC and Tiled up until Ctrl-C."""
        self._console.print(
            "IOC and Tiled stay up; join them with `temline console`. Ctrl-C ends everything."
        )
        sys.stdout.flush()
        try:
            self._interrupts.check()
            threading.Event().wait()
        except KeyboardInterrupt:
            self._console.print("\nStopping …")


def figures_table(figures: Figures) -> Table:
    """Lay the figures out for a person."""
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    share = 100 * figures.exposure_share
    for name, value in (
        (
            "tiles",
            f"{figures.tiles_taken} taken, {figures.tiles_skipped} skipped, "
            f"{figures.tiles_retaken} retaken",
        ),
        (
            "quality",
            f"{figures.tiles_taken - figures.tiles_failed} passed, {figures.tiles_failed} failed",
        ),
        ("verdict", "go" if figures.go else f"no-go: {figures.reasons}"),
        ("focus score, median", f"{figures.focus_median:.2f}"),
        ("solved by", figures.model),
        ("neighbours disagree, median", f"{figures.residual_px_median:.3f} px"),
        ("error of solved positions, RMS", f"{figures.truth_error_px_rms:.3f} px"),
        ("error of nominal positions, RMS", f"{figures.nominal_error_px_rms:.1f} px"),
        ("speed", f"{figures.mpx_per_s:.1f} Mpx/s; exposure {share:.0f} % of the time"),
        ("acquisition and processing", f"{figures.seconds:.1f} s"),
    ):
        table.add_row(name, value)
    return table
