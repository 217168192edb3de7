"""`tfcompress`: the entry point, its commands and its exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import tfcompress
from tfcompress import stopping
from tfcompress.cli.console import Console
from tfcompress.errors import CompressError, ConfigError

COMMANDS = (
    "demo",
    "convert",
    "inspect",
    "verify",
    "evaluate",
    "benchmark",
    "report",
    "compress",
    "pack",
    "unpack",
    "generate",
)
OK, NOT_MET, USAGE, FAILED = 0, 1, 2, 3


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; imports neither TensorFlow nor Keras."""
    parser = argparse.ArgumentParser(
        prog="tfcompress",
        description="Model optimization for Keras 3 and TFLite.",
        epilog="Exit codes: 0 done, 1 a condition asked for is not met, 2 usage, 3 failed.",
    )
    parser.add_argument("--version", action="version", version=tfcompress.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"tfcompress.cli.{name}")
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON document only")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    # TensorFlow reads this when it is imported; its chatter is of no use to our users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = build_parser().parse_args(arguments)
    try:
        with stopping.terminable():
            code: int = options.run(options, Console(options.json))
    except CompressError as error:
        print(f"tfcompress {options.command}: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except ImportError as error:
        print(
            f"tfcompress {options.command} needs a package that is missing or broken here: {error}."
            " Install tfcompress with its dependencies; running, inspecting and benchmarking need "
            "only NumPy and a runtime.",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # 1, Python's own code for it, says that a condition is not met
        traceback.print_exc()
        print(
            f"tfcompress {options.command}: unexpected {type(error).__name__}. This is a defect of "
            "tfcompress: please report it with the lines above.",
            file=sys.stderr,
        )
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
