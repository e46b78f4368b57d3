"""`speedrun.py` as a command."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from evaluation.speedrun.config import SpeedrunConfig
from evaluation.speedrun.pipeline import Speedrun
from groundwork.user_errors import report_user_errors
from training.train_command import OneLineErrorParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    parser = OneLineErrorParser(
        prog="python 08_evaluation/speedrun.py",
        description="Tokenizer, pretraining, instruction tuning, preferences, int8, report. Finished steps are skipped.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below.")
    parser.add_class_arguments(SpeedrunConfig)
    parsed = parser.parse_args(arguments)

    def run() -> int:
        fields = parser.instantiate_classes(parsed).as_dict()
        fields.pop("config", None)
        return Speedrun(SpeedrunConfig(**fields), Console()).run()

    return report_user_errors(run)
