"""What every experiment's command line has in common, and how its processes find each other."""

from __future__ import annotations

import argparse
from datetime import timedelta

from accelerate import PartialState

from .arms import ARMS, MAIN
from .experiment import Plan

LONGEST_WAIT = timedelta(days=30)
"""Of one process for the others."""


def add_plan(
    parser: argparse.ArgumentParser,
    *,
    arms: list[str],
    choices: list[str],
    scales: list[float],
    prompts: int,
    main_prompts: int,
    batch: int,
) -> None:
    """Options of the plan, with these defaults."""
    parser.add_argument("--arms", nargs="+", choices=choices, default=arms, metavar="ARM", help=", ".join(choices))
    parser.add_argument("--scales", type=float, nargs="+", default=scales, help="guidance scales γ")
    parser.add_argument("--prompts", type=int, default=prompts, help="that every arm draws; whole batches")
    parser.add_argument("--main-prompts", type=int, default=main_prompts, help=f"that {', '.join(MAIN)} draw")
    parser.add_argument("--batch", type=int, default=batch, help="prompts drawn together")
    parser.add_argument("--report", action="store_true", help="draw nothing: results of what is drawn already")
    parser.add_argument(
        "--rounds",
        type=int,
        default=200,
        help="resamplings for the intervals of Fréchet distances; 0: no intervals, -1: no distances",
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan: whole batches, so that more prompts leave a batch as it was; arms in the order of their needs."""
    chosen = [name for name, arm in ARMS.items() if name in options.arms or name == "cfg"]
    for name in chosen:
        if ARMS[name].needs not in (None, *chosen):
            raise SystemExit(f"--arms: {name} needs {ARMS[name].needs}; add it")
    prompts, most = (
        -(-count // options.batch) * options.batch
        for count in (options.prompts, max(options.prompts, options.main_prompts))
    )
    return Plan(tuple(chosen), tuple(options.scales), prompts, most, options.batch)


def join(*, cpu: bool = False) -> PartialState:
    """This process among those that torchrun or accelerate started; alone without them."""
    return PartialState(cpu=cpu, timeout=LONGEST_WAIT)
