"""`python -m demo` with a Python that lacks the packages says which Python has them."""

import subprocess
import sys

from ..packaging.pack import PACK


def test_the_command_names_the_environment_that_make_demo_creates(tmp_path):
    """`-S` leaves out all installed packages."""
    command = [sys.executable, "-S", "-m", "demo", "--help"]
    done = subprocess.run(command, cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("expected the packages of requirements-dev.txt, got no ")
    assert "`make demo`" in done.stderr and ".venv/bin/python -m demo" in done.stderr


def test_with_the_packages_it_lists_its_options():
    done = subprocess.run([sys.executable, "-m", "demo", "--help"], cwd=PACK, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in ("--prompt", "--seed", "--scale", "--preset", "--out"))
