"""The attributions of the emoji world, from the metadata of its packages."""

from __future__ import annotations

from pathlib import Path

from .packages import Package, Sources, read_json, read_member

_HEAD = """\
The emoji world of robust_encoders is made from works of others. Its pictures are rendered from icons of four sets, and
its networks are trained on these pictures. Its names and keywords come from two lists. The icons were placed, turned,
mirrored and put on coloured backgrounds. None of the authors endorses this package.
"""


def notice(folder: Path, sources: Sources) -> str:
    """Return the attributions as text.

    Args:
        folder: Folder of the packages' files.
        sources: Packages.
    """
    parts = [_HEAD, *(_icons(folder, package) for package in sources.icon_sets.values())]
    parts += [_keywords(folder, package) for package in (sources.emojilib, sources.emojibase)]
    return "\n".join([*parts, _clip(folder, sources.clip)])


def _icons(folder: Path, package: Package) -> str:
    info = read_json(folder, package, "info.json")
    author, licence = info["author"], info["license"]
    return _text(
        package, f"{info['name']}, by {author['name']}: {author['url']}", f"{licence['title']}: {licence['url']}"
    )


def _keywords(folder: Path, package: Package) -> str:
    about = read_json(folder, package, "package.json")
    own = read_member(folder, package, "LICENSE").decode()
    return _text(package, f"Keywords of {package.name}: {_home(about)}", own.strip())


def _clip(folder: Path, package: Package) -> str:
    about = f"{package.name.replace('-', '_')}-{package.version}.dist-info"
    terms = read_member(folder, package, f"{about}/LICENSE").decode()
    return _text(package, "The vocabulary of CLIP, by OpenAI: https://github.com/openai/CLIP", terms.strip())


def _home(about: dict[str, object]) -> str:
    found = about.get("repository") or about.get("homepage") or ""
    url = found.get("url", "") if isinstance(found, dict) else found
    return str(url).removeprefix("git+").removesuffix(".git").replace("git@github.com:", "https://github.com/")


def _text(package: Package, title: str, terms: str = "") -> str:
    lines = [title, f"Package {package.spec}, licence {package.licence}."]
    return "\n".join(["-" * 80, *lines, *([terms] if terms else [])]) + "\n"
