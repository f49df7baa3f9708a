"""Settings of the whole virtual microscope, and the two worlds that it may stand in.

In the kind world tiles are congruent and the light is steady; in the real one they are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self, TypeVar, get_args

from simulation.errors import SettingsError
from simulation.settings.base import Settings, ranged
from simulation.settings.imperfections import (
    Imperfection,
    ImperfectionSettings,
    SectionSettings,
)
from simulation.settings.instrument import (
    CameraSettings,
    ColumnSettings,
    OpticsSettings,
    StageSettings,
)

World = Literal["kind", "real"]
WORLDS: tuple[World, ...] = get_args(World)
Group = TypeVar("Group", bound=Settings)


@dataclass(frozen=True)
class MicroscopeSettings(Settings):
    """The whole virtual microscope; by default in the kind world.

    Attributes
    ----------
    seed : int
        Everything that is random comes from it.
    time_scale : float
        Simulated seconds in a real one.
    column : ColumnSettings
    optics : OpticsSettings
    camera : CameraSettings
    stage : StageSettings
    imperfections : ImperfectionSettings
        What is wrong with the instrument, as it is with real ones.
    section : SectionSettings
        The same of the section, for whoever makes the specimen.

    Examples
    --------
    >>> settings = MicroscopeSettings.from_mapping({"camera": {"sensor": [256, 256]}})
    >>> settings.camera.sensor
    (256, 256)
    >>> real = MicroscopeSettings.real().updated({"imperfections": {"fringes": {"period": 7.0}}})
    >>> real.imperfections.fringes.enabled, real.imperfections.fringes.period
    (True, 7.0)
    """

    seed: int = ranged(1, 0, 2**63 - 1)
    time_scale: float = ranged(1.0, 1e-3, 1e6)
    column: ColumnSettings = field(default_factory=ColumnSettings)
    optics: OpticsSettings = field(default_factory=OpticsSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    stage: StageSettings = field(default_factory=StageSettings)
    imperfections: ImperfectionSettings = field(default_factory=ImperfectionSettings)
    section: SectionSettings = field(default_factory=SectionSettings)

    @classmethod
    def kind(cls) -> Self:
        """Return the kind world: no imperfection is enabled."""
        return cls()

    @classmethod
    def real(cls) -> Self:
        """Return the real world: every imperfection is enabled, as strong as it usually is."""
        return cls(
            imperfections=_all_enabled(ImperfectionSettings()),
            section=_all_enabled(SectionSettings()),
        )

    @classmethod
    def of_world(cls, world: str) -> Self:
        """Return a world by its name.

        Raises
        ------
        SettingsError
            If there is no such world.
        """
        if world not in WORLDS:
            raise SettingsError(f"world is {world!r}; it must be {' or '.join(WORLDS)}")
        return cls.real() if world == "real" else cls.kind()


def _all_enabled(group: Group) -> Group:
    enabled = {
        item.name: replace(value, enabled=True)
        for item in fields(group)  # type: ignore[arg-type]
        if isinstance(value := getattr(group, item.name), Imperfection)
    }
    return replace(group, **enabled)  # type: ignore[type-var]
