"""METHOD, DESIGN and CONTRIBUTING speak of what is there: functions, settings, files, commands."""

import re
from importlib import import_module

import pytest

from scfg_core import Settings

from .pack import PACK

METHOD, DESIGN, CONTRIBUTING = (
    (PACK / name).read_text(encoding="utf-8") for name in ("docs/METHOD.md", "docs/DESIGN.md", "CONTRIBUTING.md")
)
PAGES = sorted(path.relative_to(PACK).as_posix() for path in (*PACK.glob("*.md"), *(PACK / "docs").glob("*.md")))
PRESETS = ("paper", "authors", "default", "balanced")
WORDS = {"on": True, "off": False, "∞": float("inf"), "¼": 0.25, "¾": 0.75}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def found(name: str) -> bool:
    """Whether `module.function` is in the core, or in `views` where it says so."""
    *module, attribute = name.split(".")
    home = ".".join(module)
    try:
        return hasattr(import_module(home if home == "views" else f"scfg_core.{home}"), attribute)
    except ModuleNotFoundError:
        return False


def named_functions(text: str) -> list[str]:
    return re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", text)


def test_every_equation_has_a_function_that_there_is():
    table = [line for line in METHOD.partition("## Settings")[0].splitlines() if line.startswith("| Eq.")]
    assert len(table) >= 7
    assert [line for line in table if not named_functions(line) and "the host's CFG" not in line] == []
    assert [name for name in named_functions(METHOD) if not found(name)] == []


def test_the_presets_are_those_of_the_table():
    section = METHOD.partition("## Settings and presets\n")[2].partition("\n## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| ")][1:]
    checked: set[str] = set()
    for heading, *columns in rows:
        names = re.sub(r" at γ = 15| \(.*\)", "", heading).replace(";", ",").split(", ")
        for preset, column in zip(PRESETS, columns, strict=True):
            values = [read(each) for each in re.split("[;,] ", column)]
            if names == ["power_weights"]:
                values = [tuple(values)]
            settings = vars(Settings.preset(preset))
            assert values == [settings[name] for name in names]
        checked |= set(names)
    assert checked == vars(Settings()).keys()


def read(cell: str):
    if cell in WORDS:
        return WORDS[cell]
    try:
        return float(cell)
    except ValueError:
        return cell


def test_the_house_is_as_contributing_draws_it():
    """Every folder and module that is drawn exists, and every module of the core's rooms is drawn."""
    drawing = CONTRIBUTING.split("```")[1]
    names = re.findall(r"\b[a-z_]+(?:\.py\b|/)", drawing)
    assert len(names) > 40
    rooms = [PACK / "scfg_core" / room for room in ("method", "collect", "families", "run")]
    hosts = PACK / "scfg_core" / "hosts"
    roots = [PACK, PACK / "scfg_core", *rooms, hosts, hosts / "comfyui"]
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []
    modules = {path.name for root in (PACK / "scfg_core", *rooms) for path in root.glob("[!_]*.py")}
    assert modules <= set(names)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_files_that_a_page_names_exist(page):
    text = (PACK / page).read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (PACK / "Makefile").read_text(encoding="utf-8"), re.M)
    commands = re.findall(r"python -m ((?:benchmarks|demo|evaluation)[\w.]*)", text)
    missing = [name for name in commands if not module_file(name)]
    missing += [name for name in re.findall(r"`make ([a-z-]+)", text) if name not in targets]
    files = re.findall(r"`((?:tests|docs|web|demo|nodes|views|workflows|scfg_core)/[\w./]+)`", text)
    missing += [name for name in files if not (PACK / name).exists()]
    assert missing == []


def module_file(name: str) -> bool:
    place = PACK.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
