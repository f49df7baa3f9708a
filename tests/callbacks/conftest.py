"""Fixtures of the tests of callbacks: workers, a recorder of documents, a Tiled server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from callbacks.folders import DataFolders
from callbacks.tile_jobs import ProcessorSettings
from callbacks.tile_processor import TileProcessor
from tests.callbacks.recorder import Recorder
from tests.callbacks.tiled import TiledProcess

SETTINGS = ProcessorSettings(frame_timeout=0.3, reference_timeout=5.0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_processor(
    executor: ThreadPoolExecutor, recorder: Recorder, tmp_path: Path
) -> Iterator[Callable[..., TileProcessor]]:
    """Make tile processors that are closed after the test; what they publish is checked."""
    made: list[TileProcessor] = []

    def make(publish=recorder, pool=executor, settings=SETTINGS) -> TileProcessor:
        processor = TileProcessor(pool, publish, settings, DataFolders(tmp_path))
        made.append(processor)
        return processor

    yield make
    for processor in made:
        processor.close(20)
    recorder.check()


@pytest.fixture
def processor(make_processor: Callable[..., TileProcessor]) -> TileProcessor:
    return make_processor()


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def tiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose files the Tiled server may read."""
    return tmp_path_factory.mktemp("readable")


@pytest.fixture(scope="session")
def _tiled(tmp_path_factory: pytest.TempPathFactory, tiled_folder: Path) -> Iterator[TiledProcess]:
    server = TiledProcess(tmp_path_factory.mktemp("tiled"), tiled_folder)
    yield server
    server.kill()


@pytest.fixture
def tiled(_tiled: TiledProcess) -> TiledProcess:
    """The Tiled server, running; a test may kill it, the next one starts it again."""
    _tiled.start()
    return _tiled
