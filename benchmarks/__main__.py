"""python -m benchmarks [NAME] [options], NAME one of `BENCHMARKS`; no name: backends, then host."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import clock, report

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    options = parse()
    options.dtype = DTYPES.get(options.dtype)
    torch.set_num_threads(options.threads)
    if options.device != "cpu":
        if not torch.cuda.is_available():
            raise SystemExit(f"no CUDA device for --device {options.device}: leave it out to measure on the CPU")
        torch.cuda.set_device(torch.device(options.device).index or 0)
    for name in ("backends", "host") if options.benchmark is None else (options.benchmark,):
        BENCHMARKS[name](options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What S-CFG costs, in ratios.")
    parser.add_argument("benchmark", nargs="?", choices=sorted(BENCHMARKS), help="none: backends, then host")
    parser.add_argument("--full", action="store_true", help="more sizes; host: latents of usual image sizes")
    parser.add_argument(
        "--pairs", type=int, help="interleaved measurements per variant (default 5; host --full on a CPU: 1)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: the usual one of the model and device")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; one gives the steadiest ratios")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="folder of the JSON files")
    parser.add_argument("--no-naive", action="store_true", help="skip the naive version")
    parser.add_argument("--memory-only", action="store_true", help="host: count bytes only")
    parser.add_argument("--model", action="append", choices=["sd15", "sdxl"], help="host: only this model")
    parser.add_argument(
        "--latent", type=int, action="append", help="host: side of the latent, instead of the defaults"
    )
    parser.add_argument("--checkpoint", type=Path, help="layers: your own checkpoint (needs ComfyUI)")
    parser.add_argument("--prompt", action="append", help="layers, update: a prompt; can be repeated")
    parser.add_argument("--steps", type=int, help="layers, update: sampling steps")
    parser.add_argument("--against", type=Path, help="python: another checkout of this pack, measured in turns")
    return parser.parse_args()


def backends(options: argparse.Namespace) -> None:
    from . import backends

    dtype = options.dtype or (torch.float32 if options.device == "cpu" else torch.float16)
    rows = backends.run(options.full, dtype, options.device, options.pairs or 5, not options.no_naive)
    report.show("Ways of applying S, one block of 1 + 1 rows", rows, backends.COLUMNS)
    report.save(options.out / "backends.json", "backends", rows, clock.machine(options.device))


def families(options: argparse.Namespace) -> None:
    from . import families

    rows = families.run()
    report.show("Transformers, a step at 4096 patches, counted", rows, families.COLUMNS)
    report.save(options.out / "families.json", "families", rows, clock.machine("cpu"))


def overhead(options: argparse.Namespace) -> None:
    from . import overhead

    rows = overhead.run(options.pairs or 5, options.device)
    report.show("What S-CFG adds to a step, layer by layer", rows, overhead.COLUMNS)
    report.save(options.out / "overhead.json", "overhead", rows, clock.machine(options.device))


def host(options: argparse.Namespace) -> None:
    from . import host

    host.main(options)


def layers(options: argparse.Namespace) -> None:
    from . import layers

    layers.main(options)


def update(options: argparse.Namespace) -> None:
    from . import update

    update.main(options)


def follow(options: argparse.Namespace) -> None:
    from . import follow

    rows = follow.run(options.device)
    report.show("A mask that follows words", rows, follow.COLUMNS)
    report.save(options.out / "follow.json", "follow", rows, clock.machine(options.device))


def launches(options: argparse.Namespace) -> None:
    from . import launches

    rows = launches.run()
    report.show("What S-CFG launches per evaluation on a GPU", rows, launches.COLUMNS)
    report.save(options.out / "launches.json", "launches", rows, clock.machine("cpu"))


def python(options: argparse.Namespace) -> None:
    from . import python_time

    rows = python_time.run(options.against, options.pairs or 3)
    report.show("Python time of S-CFG per evaluation", rows, python_time.COLUMNS)
    report.save(options.out / "python.json", "python", rows, clock.machine("cpu"))


BENCHMARKS = {
    "backends": backends,
    "overhead": overhead,
    "families": families,
    "follow": follow,
    "host": host,
    "launches": launches,
    "python": python,
    "layers": layers,
    "update": update,
}

if __name__ == "__main__":
    main()
