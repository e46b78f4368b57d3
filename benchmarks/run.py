"""Run the comparisons and write results.json, results.md and results.svg.

python benchmarks/run.py                               # everything, into benchmarks/results
python benchmarks/run.py --quick                       # less data and fewer rounds
python benchmarks/run.py --output docs/results/speed   # the figures that the documentation shows

With --only, the other comparisons stay in the report.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

import batching_speed
import decoding_speed
import mlp_speed
import quantization_speed
import server_speed
import tokenizer_speed
import training_speed
import transformers_training_speed
from reporting import write_report

COMPARISONS = {
    "training": training_speed.run,
    "training-transformers": transformers_training_speed.run,
    "mlp": mlp_speed.run,
    "tokenizer": tokenizer_speed.run,
    "decoding": decoding_speed.run,
    "batching": batching_speed.run,
    "quantization": quantization_speed.run,
    "server": server_speed.run,
}


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="Compare the speed with other programs, on this machine, in one run.")
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds")
    parser.add_argument("--only", choices=COMPARISONS, action="append", help="only this comparison; may be repeated")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the report")
    options = parser.parse_args()
    console = Console()
    report = ""
    for name in options.only or COMPARISONS:
        start = time.perf_counter()
        with console.status(f"Measuring {name} …"):
            results = COMPARISONS[name](options.quick)
        report = write_report(options.output, name, results, options.quick)
        console.print(f"{name}: measured in {time.perf_counter() - start:.0f} s", highlight=False)
    console.print(report, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {options.output}", highlight=False)


if __name__ == "__main__":
    main()
