"""Keep the results of a training run for the documentation: numbers, configuration, machine, curve and samples.

python benchmarks/record_run.py checkpoints/small_gpt docs/results/small_gpt --command "make train"

Then `python docs/write_tables.py` writes the tables of the documentation from them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from groundwork.files import read_json, write_json
from reporting import describe_machine
from training.checkpoints.checkpoint import CheckpointError, read_checkpoint, read_settings
from training.run.tracking import CURVE_FILE, SUMMARY_FILE


def main() -> int:
    """Copy the files and describe the run; returns the exit status."""
    parser = argparse.ArgumentParser(description="Keep the results of a training run for the documentation.")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("output", type=Path, help="folder for run.json and loss_curve.png")
    parser.add_argument("--command", required=True, help="the command that made the run")
    options = parser.parse_args()
    try:
        settings = read_checkpoint(options.run, read_settings)
        summary = read_json(options.run / SUMMARY_FILE)
    except (CheckpointError, OSError) as error:
        print(f"error: {options.run} is not a finished run: {error}", file=sys.stderr)
        return 1
    content = {"command": options.command, "machine": describe_machine(), "summary": summary, "settings": settings}
    write_json(options.output / "run.json", content)
    shutil.copyfile(options.run / CURVE_FILE, options.output / CURVE_FILE)
    print(f"Written to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
