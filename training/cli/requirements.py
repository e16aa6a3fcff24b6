"""Folders and bases that any training command needs, asked for before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robust_encoders.artifact.target import target_problems
from robust_encoders.errors import BaseLoadError, NotReadyError
from robust_encoders.hub.embedded import embedded_problems
from robust_encoders.hub.pipelines import require_place
from robust_encoders.utils.targets import place_problems

from ..diffusion.base_configs import configs_of
from ..diffusion.base_kind import kind_problems
from ..worlds import DEFAULT_BASE
from ..worlds.choice import world_of


def require(problems: Iterable[str]) -> None:
    """Check that there are no problems.

    Raises:
        NotReadyError: If there are some; the message lists all of them.
    """
    if found := list(problems):
        raise NotReadyError.of(found)


def base_problems(name: str | Path | None, *, draws: bool = False, two: bool = False) -> list[str]:
    """Return the reasons why a base cannot be loaded, is not installed, or is of the wrong kind.

    Args:
        name: Folder, Hub id, or name of an embedded base; None for the default one.
        draws: True if the pipeline itself shall draw pictures.
        two: True to accept a base with two text encoders, as SDXL has.
    """
    world = world_of(name)
    if name is None or world is not None:
        return embedded_problems(DEFAULT_BASE if world is None else world.name)
    try:
        require_place(name)
    except BaseLoadError as error:
        return [str(error)]
    configs = configs_of(name, draws=draws)
    return [] if configs is None else kind_problems(configs, draws=draws, two=two)


def require_artifact_run(out: Path | None, base: str | None, *, two: bool = False) -> None:
    """Check the folder of an artifact and the base of a command, before anything is loaded.

    Args:
        out: Folder of the artifact; None writes none.
        base: Folder, Hub id or name of the base; empty or None if only the encoders tell it, once they are loaded.
        two: True to accept a base with two text encoders, as SDXL has.

    Raises:
        NotReadyError: If the artifact cannot be saved, or the base is missing or of the wrong kind.
    """
    require([*([] if out is None else target_problems(out)), *(base_problems(base, two=two) if base else [])])


def require_places(*folders: Path | None) -> None:
    """Check that files can be written to folders.

    Args:
        folders: Folders; None stands for a folder that is not used.

    Raises:
        NotReadyError: If a folder can be neither written nor made; the message lists all of them.
    """
    require(text for folder in folders if folder is not None for text in place_problems(folder))
