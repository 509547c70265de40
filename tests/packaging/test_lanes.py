"""Every test runs in one lane of `make test`: the core, the host's Python, or a browser."""

import re

from .pack import PACK

MAKEFILE = (PACK / "Makefile").read_text(encoding="utf-8")
CI = (PACK / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def lane(name: str) -> list[str]:
    return re.search(rf"^{name} = (.+)$", MAKEFILE, re.M)[1].split()


HOST, WEB = lane("HOST_TESTS"), lane("WEB_TESTS")


def files_that_import(package: str) -> list[str]:
    pattern = re.compile(rf"^\s*(?:from|import) {package}\b", re.M)
    paths = (PACK / "tests").rglob("*.py")
    return [path.relative_to(PACK).as_posix() for path in paths if pattern.search(path.read_text(encoding="utf-8"))]


def outside(files: list[str], lanes: list[str]) -> list[str]:
    return [name for name in files if not name.startswith(tuple(lanes))]


def test_the_lanes_are_where_they_say():
    assert [path for path in HOST + WEB if not (PACK / path).exists()] == []


def test_whatever_drives_a_browser_is_in_the_web_lane():
    files = files_that_import("playwright")
    assert len(files) >= 3
    assert outside(files, WEB) == []


def test_whatever_imports_the_host_is_in_the_host_lane_or_the_web_lane():
    files = [*files_that_import("comfy"), *files_that_import("comfy_api")]
    assert len(files) >= 3
    assert outside(files, HOST + WEB) == []


def test_public_ci_leaves_the_same_paths_to_the_host():
    (command,) = re.findall(r"-m pytest tests ((?:--ignore=\S+ ?)+)", CI)
    assert re.findall(r"--ignore=(\S+)", command) == HOST + WEB
    assert "make -C semantic-cfg test-host " in CI and "make -C semantic-cfg test-web " in CI
