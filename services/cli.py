"""The command line: `temline` and its commands.

Each command imports what it needs when it runs, so that help and mistakes answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.client_commands import app as client_commands
from services.options import SiteFile

app = typer.Typer(
    name="temline",
    help="Runs an automated transmission electron microscope, real or virtual.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)


@app.command()
def demo(  # noqa: PLR0917
    rows: Annotated[int, typer.Option(min=1, max=50, help="Rows of the montage.")] = 6,
    columns: Annotated[int, typer.Option(min=1, max=50, help="Columns of the montage.")] = 6,
    tile_size: Annotated[
        int, typer.Option(min=128, max=5376, help="Side of a tile, in px.")
    ] = 2048,
    specimen: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An image to use as the specimen: TIFF, MRC, PNG, DM3 …"),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="NM", help="Of that image, in nm, if its file does not tell."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the virtual microscope.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there, too.")
    ] = None,
    leave: Annotated[
        bool, typer.Option("--exit", help="End by itself, instead of staying until Ctrl-C.")
    ] = False,
) -> None:
    """Acquire, stitch and show a montage of the virtual section.

    Starts an IOC and a Tiled server of its own on free ports, and leaves nothing running.

    Example: [bold]temline demo --specimen micrograph.png --rows 3 --columns 4[/bold]
    """
    from services.demo import DemoOptions, run_demo

    run_demo(
        DemoOptions(
            rows=rows,
            columns=columns,
            tile_size=tile_size,
            specimen=specimen,
            pixel_size=pixel_size,
            seed=seed,
            json_file=json_file,
            leave=leave,
        )
    )


@app.command()
def up(config: SiteFile = None) -> None:
    """Start all processes of the instrument and watch over them until Ctrl-C.

    A process that dies is started again, three times a minute at most. Logs are written to
    .temline/log/.

    Example: [bold]temline up --config mysite.yml[/bold]
    """
    from config import load
    from services.up import run_up

    run_up(load(config), config)


@app.command()
def ioc(config: SiteFile = None) -> None:
    """Serve the process variables of the microscope, stage and camera until Ctrl-C.

    Example: [bold]TEMLINE_EPICS__PREFIX=LAB7: temline ioc[/bold]
    """
    from config import load
    from services.environment import set_environment
    from services.processes import write_ioc_settings

    loaded = load(config).config
    if loaded.ioc.driver is None:
        raise typer.BadParameter("ioc.driver is null: this configuration has no IOC of its own")
    settings = write_ioc_settings(loaded)
    set_environment(loaded)
    from ioc.__main__ import main as serve

    sys.exit(serve(["--settings", str(settings)]))


@app.command()
def tiled(config: SiteFile = None) -> None:
    """Serve the catalogue of runs over HTTP until Ctrl-C.

    The key comes from TILED_SINGLE_USER_API_KEY, or is made and kept in .temline/tiled.key.

    Example: [bold]TEMLINE_TILED__PORT=8010 temline tiled[/bold]
    """
    from config import load
    from services.processes import tiled_settings
    from services.runtime import SERVER_KEY_VARIABLE, require_free, tiled_key
    from services.tiled_server import serve

    loaded = load(config).config
    settings = tiled_settings(loaded)
    require_free(settings.host, settings.port, "tiled.port")
    key = tiled_key(loaded.folder, SERVER_KEY_VARIABLE)
    print(f"Tiled: {settings.uri}/ui/?api_key={key}")
    serve(settings, key)


@app.command()
def supervisor(config: SiteFile = None) -> None:
    """Serve commands, by process variables and by HTTP, and run them, until Ctrl-C.

    Example: [bold]temline ioc &  temline supervisor[/bold]
    """
    from services.supervisor.__main__ import main as serve

    sys.exit(serve(config))


@app.command()
def console(config: SiteFile = None) -> None:
    """Open IPython with a RunEngine, the devices, the plans and the live table.

    It joins the temline that runs in this folder, if one does.

    Example: [bold]temline up &  temline console[/bold]
    """
    from services.console import run_console

    run_console(config)


@app.command("config")
def show_config(
    config: SiteFile = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only tell whether this site file is right."),
    ] = None,
) -> None:
    """Show the configuration, and where each value of it was set.

    Example: [bold]temline config --check mysite.yml[/bold]
    """
    from config import load

    if check is not None:
        count = sum(source.startswith(f"{check}:") for *_, source in load(check).table())
        print(f"{check} is right; it sets {count} value{'s' * (count != 1)}.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "value", "set by", box=None, pad_edge=False)
    here = Path.cwd()
    for key, value, source in load(config).table():
        table.add_row(key, repr(value), source.replace(f"{here}/", ""))
    Console().print(table)


@app.command()
def replay(config: SiteFile = None) -> None:
    """Write to Tiled what could not be written while it was down.

    Example: [bold]temline replay[/bold]
    """
    from services.replay import run_replay

    run_replay(config)


app.add_typer(client_commands)

lens_app = typer.Typer(
    help="Lens corrections: the distortion of the projector lenses.", no_args_is_help=True
)
app.add_typer(lens_app, name="lens")


@lens_app.command("fit")
def lens_fit(  # noqa: PLR0917
    file: Annotated[Path, typer.Argument(help="Point matches, JSON as `render` exports it.")],
    degree: Annotated[
        str | None,
        typer.Option(
            metavar="2…9|auto",
            help="Of the polynomial; auto: what pairs of tiles that are held out bear out. By "
            "default as configured.",
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH", help="Of the tiles, in px; by default as far as matches go."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the fit there, too.")
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT", help="Draw the correction and its residuals there."),
    ] = None,
    config: SiteFile = None,
) -> None:
    """Fit a lens to the matches of overlapping tiles, and tell whether to accept it.

    The limits are those of the configuration's section `lens`. The exit code is 1 if the fit is
    not accepted.

    Example: [bold]temline lens fit matches.json --json lens.json[/bold]
    """
    from config import load
    from processing.lens import LensLimits
    from services.lens import parse_degree, run_fit

    settings = load(config).config.lens
    chosen = settings.degree if degree is None else parse_degree(degree)
    limits = LensLimits(**settings.model_dump(exclude={"degree"}))
    if not run_fit(file, chosen, size, json_file, limits, plot_file):
        raise typer.Exit(1)


SeamName = Literal["blend", "cut"]
FreedomName = Literal["auto", "translation", "affine", "lens", "affine+lens"]
SolveModel = Annotated[
    FreedomName,
    typer.Option(
        help="What tiles may do: be moved only, be bent each by a map of its own, or all by "
        "one lens; auto: what matches that are held out bear out."
    ),
]
OffsetSigns = Annotated[
    str | None,
    typer.Option(
        metavar="SIGNS",
        help='What dX and dY mean, if the data cannot tell: such as "x,-y" or "y,x raster".',
    ),
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", metavar="OUT", help="Write the tiles' positions there.")
]
RenderFile = Annotated[
    Path | None, typer.Option("--render", metavar="OUT", help="Write tile specs of `render` there.")
]
OmeFolder = Annotated[
    Path | None,
    typer.Option("--ome", metavar="FOLDER", help="Write the tiles with their places as OME-TIFF."),
]


@app.command()
def solve(  # noqa: PLR0917
    file: Annotated[Path, typer.Argument(help="Montage metadata of TilEM or TEMCA, JSON.")],
    csv_file: CsvFile = None,
    render_file: RenderFile = None,
    ome_folder: OmeFolder = None,
    model: SolveModel = "auto",
    offsets: OffsetSigns = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the figures there, too.")
    ] = None,
) -> None:
    """Solve a montage that another system took and matched, and tell whether to accept it.

    The exit code is 1 if it is not accepted.

    Example: [bold]temline solve _metadata_x.json --csv positions.csv --render tiles.json[/bold]
    """
    from services.solve import Outputs, parse_offsets, run_solve

    accepted = run_solve(
        file,
        Outputs(csv_file, render_file, ome_folder),
        freedom=model,
        offsets=None if offsets is None else parse_offsets(offsets),
        json_file=json_file,
    )
    if not accepted:
        raise typer.Exit(1)


@app.command()
def stitch(  # noqa: PLR0917
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="A folder of tile images; a table of positions, or TileConfiguration.txt, and the "
            "folder of its images; an .mdoc or a stack of SerialEM; tile specs of `render`; "
            "OME-TIFF; metadata of TilEM.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="Of the mosaic: OME-Zarr."),
    ] = Path("mosaic.ome.zarr"),
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Of the tiles' names, such as 'r{row}_c{col}*.tif' or 'tile_{index}.png'; by "
            "default it is found."
        ),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Of the grid, where names hold an {index} alone.")
    ] = None,
    serpentine: Annotated[
        bool, typer.Option("--serpentine", help="That index runs back along every second row.")
    ] = False,
    overlap: Annotated[
        float | None, typer.Option(help="Of neighbours, in %; by default it is measured.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="NM", help="Where the files do not tell it, or wrongly.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Of positions: px, nm, um or mm, if the file does not tell.")
    ] = None,
    y_up: Annotated[
        bool | None,
        typer.Option("--y-up/--y-down", help="Which way y and rows count, if not as usual."),
    ] = None,
    section: Annotated[
        str | None, typer.Option(help="Which montage of a file that holds several.")
    ] = None,
    search: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PX",
            help="How far neighbours may lie from where they should; by default it is measured.",
        ),
    ] = None,
    match_anew: Annotated[
        bool, typer.Option("--match-anew", help="Match images although the input holds matches.")
    ] = False,
    offsets: OffsetSigns = None,
    model: SolveModel = "auto",
    bright: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An image or a stack of the beam without specimen."),
    ] = None,
    dark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An image or a stack without beam.")
    ] = None,
    no_flat: Annotated[
        bool, typer.Option("--no-flat", help="Do not estimate uneven light from the tiles.")
    ] = False,
    seam: Annotated[
        SeamName, typer.Option(help="Where tiles overlap: their mean, or the one that is nearer.")
    ] = "blend",
    csv_file: CsvFile = None,
    render_file: RenderFile = None,
    ome_folder: OmeFolder = None,
    mdoc_file: Annotated[
        Path | None,
        typer.Option(
            "--mdoc",
            metavar="OUT",
            help="Write aligned piece coordinates there, as SerialEM does: .mdoc of a stack, .idoc "
            "of single images.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT", help="Write the figures, also of each tile, there."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; by default one a processor.")
    ] = None,
) -> None:
    """Stitch a montage that somebody took, and tell whether to accept it.

    Light is evened, neighbours are matched, all is solved, and a mosaic written with a page of
    figures to review it by. The exit code is 1 if it is not accepted.

    Example: [bold]temline stitch tiles/ --pixel-size 4 -o brain.ome.zarr --csv tiles.csv[/bold]
    """
    from formats.options import ReadOptions
    from services.solve import Outputs, parse_offsets
    from services.stitch import StitchRequest, run_stitch

    request = StitchRequest(
        inputs=tuple(inputs),
        output=output,
        options=ReadOptions(
            pattern=pattern,
            columns=columns,
            serpentine=serpentine,
            overlap=overlap,
            unit=unit,
            pixel_size=pixel_size,
            y_up=y_up,
            section=section,
        ),
        offsets=None if offsets is None else parse_offsets(offsets),
        freedom=model,
        bright=bright,
        dark=dark,
        flat=not no_flat,
        match_anew=match_anew,
        reach=search,
        seam=seam,
        outputs=Outputs(csv_file, render_file, ome_folder, mdoc_file),
        json=json_file,
        workers=workers,
    )
    if not run_stitch(request):
        raise typer.Exit(1)


@app.command()
def export(
    uid: Annotated[str, typer.Argument(help="Of a montage's run, raw or processed.")],
    csv_file: CsvFile = None,
    render_file: RenderFile = None,
    ome_folder: OmeFolder = None,
    config: SiteFile = None,
) -> None:
    """Write the solved positions of a montage for other tools.

    Example: [bold]temline export 7d3f… --csv positions.csv --ome tiles[/bold]
    """
    from services.solve import Outputs, run_export

    run_export(uid, Outputs(csv_file, render_file, ome_folder), config)


def main() -> None:
    """Run the command line; mistakes of the user end in a message, not in a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_plain(error):
            raise
        print(f"temline: {error}", file=sys.stderr)
        sys.exit(1)


def _is_plain(error: Exception) -> bool:
    """Tell whether an error's message says all that its user needs."""
    from config import ConfigError
    from formats.errors import FormatError
    from services.errors import PlainError

    return isinstance(error, ConfigError | FormatError | PlainError)


if __name__ == "__main__":
    main()
