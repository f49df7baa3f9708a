"""An IOC over the replay driver, whose frames are known to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import IocProcess

SHAPE = (96, 128)
COUNT = 5


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five images of 16 bits; image i has a mean of about 1000 (i + 1)."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(7)
    for i in range(COUNT):
        image = rng.poisson(1000 * (i + 1), SHAPE).astype(np.uint16)
        assert cv2.imwrite(str(folder / f"frame{i}.png"), image)
    return folder


@pytest.fixture(scope="session")
def pixels(images: Path) -> list[np.ndarray]:
    """The images of the folder, in the order in which they are played."""
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(images.glob("*.png"))]


@pytest.fixture(scope="module")
def replay(module_ioc: Callable[..., IocProcess], images: Path) -> IocProcess:
    """An IOC over the replay driver with three apertures, one for the tests of a module."""
    return module_ioc(driver="replay", folder=str(images), aperture_count=3)
