"""`python -m benchmarks demo` shows what the toolkit does; `python -m benchmarks run` times it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; its exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="small runs of every model, with figures")
    demo.add_argument("parts", nargs="*", metavar="PART", help="which parts; all by default")
    demo.add_argument("--data", type=Path, help="an MNIST npz file; without one the bundled digits are used")
    demo.add_argument("--speech", type=Path, help="an npz file of spoken digits, in place of the bundled speaker")
    demo.add_argument("--text", type=Path, help="a text in ASCII, in place of the bundled excerpt of Shakespeare")
    demo.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="folder for the figures (%(default)s)")

    run = commands.add_parser("run", help="time us and the installed peers on the same problems")
    run.add_argument("--only", nargs="+", default=[], metavar="NAME", help="problems; all by default")
    run.add_argument("--tiny", action="store_true", help="at sizes that only try the machinery")
    run.add_argument("--out", type=Path, help="folder for <backend>.json and <backend>.md, which are replaced")
    run.add_argument(
        "--peers", nargs="+", default=["all"], metavar="NAME", help="libraries; all by default, none for none"
    )
    run.add_argument("--rounds", type=int, default=7, help="turns of each program (%(default)s)")

    run.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="your own rule instead: the function returns (rule, params, ys), or these by name with key and weights",
    )

    scaling = commands.add_parser("scaling", help="FLOPs and bytes reduced a device, on 1 to 8 simulated devices")
    scaling.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models; all by default")

    large = commands.add_parser("large", help="online EM over ten million points, and EM over 4 GiB within 1 GiB")
    large.add_argument("--points", type=int, default=10_000_000, help="for online EM (%(default)s)")
    large.add_argument("--gigabytes", type=float, default=4.0, help="of data in a file (%(default)s)")

    long = commands.add_parser("long", help="what 100,000 steps hold: memory, arrays, traces, time, files")
    long.add_argument("--steps", type=int, default=100_000, help="a multiple of 1,000 (%(default)s)")

    kills = commands.add_parser("kills", help="kill a run that writes checkpoints, and resume it")
    kills.add_argument("--count", type=int, default=100, help="how often (%(default)s)")

    options = parser.parse_args(argv)
    if options.command == "kills":
        from .kills import main as kill

        kill(options.count)
        return 0
    if options.command == "long":
        from .long import main as last

        last(options.steps)
        return 0
    if options.command == "large":
        from .large import main as try_large

        try_large(options.points, options.gigabytes)
        return 0
    if options.command == "scaling":
        from . import scaling as grows

        if unknown := sorted(set(options.only) - set(grows.FAMILIES)):
            parser.error(f"--only: got {', '.join(unknown)}, expected some of {', '.join(grows.FAMILIES)}")
        grows.main(options.only)
        return 0
    if options.command == "run" and options.model:
        from . import own

        if options.only or options.tiny or options.out or options.peers != ["all"]:
            parser.error("--model: goes with --rounds only, the other options are for the problems")
        try:
            own.main(options.model, options.rounds)
        except ValueError as error:
            parser.error(str(error))
        return 0
    if options.command == "demo":
        try:
            from .demo import main as show
        except ModuleNotFoundError as error:
            if error.name != f"{__package__}.demo":
                raise
            parser.error("demo: is not installed, nor are its data; run it in a clone of the repository")
        return show(options.data, options.out, options.parts, speech=options.speech, text=options.text) or 0
    # imported late: neither needs what the other needs
    from . import run as timing

    try:
        problems, libraries = timing.chosen_problems(options.only), timing.chosen_peers(options.peers)
    except ValueError as error:
        parser.error(str(error))
    return timing.main(problems, libraries, options.tiny, options.out, options.rounds)


if __name__ == "__main__":
    sys.exit(main())
