"""`--threads`: how many threads compute on a CPU. Every program that computes has this option.

Without it PyTorch decides: as the variable `OMP_NUM_THREADS` says, or else one for each core.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

MOST = 1024  # a larger number is probably a typing error, and could end the process
HELP = "threads that compute on the CPU; default: OMP_NUM_THREADS, or else one for each core"


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Give a command the option. It takes effect when the command line is read; the parsed options do not have it."""
    parser.add_argument("--threads", type=int, action=_UseThreads, default=argparse.SUPPRESS, help=HELP)


def use_threads(number: int) -> None:
    """Compute with this many threads from now on, in this process and in those that it starts.

    Raises:
        ValueError: it is not between 1 and 1,024.
    """
    if not 1 <= number <= MOST:
        raise ValueError(f"threads must be between 1 and {MOST:,}, got {number:,}")
    import torch  # here, because commands that only read their arguments should begin quickly

    os.environ["OMP_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)


class _UseThreads(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        try:
            use_threads(values)
        except ValueError as error:
            parser.error(f"--{error}")
