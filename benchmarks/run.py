"""Run the comparisons and write benchmarks/results/results.json and results.md.

python benchmarks/run.py            # everything
python benchmarks/run.py --quick    # less data, about a minute
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

import decoding_speed
import mlp_speed
import tokenizer_speed
import training_speed
from harness import write_report

COMPARISONS = {
    "training": training_speed.run,
    "mlp": mlp_speed.run,
    "tokenizer": tokenizer_speed.run,
    "decoding": decoding_speed.run,
}


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Speed beside the peers, on this machine, in one run.")
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds")
    parser.add_argument("--only", choices=COMPARISONS, action="append", help="these comparisons only")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the report")
    options = parser.parse_args()
    console = Console()
    results = []
    for name in options.only or COMPARISONS:
        with console.status(f"Measuring {name} …"):
            results += COMPARISONS[name](options.quick)
    console.print(write_report(options.output, results), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {options.output}", highlight=False)


if __name__ == "__main__":
    main()
