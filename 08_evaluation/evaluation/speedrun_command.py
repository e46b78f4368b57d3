"""`speedrun.py` as a command."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from evaluation.speedrun.config import SpeedrunConfig
from evaluation.speedrun.pipeline import Speedrun
from groundwork.configuration import ConfigurationParser
from groundwork.user_errors import report_user_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit status."""
    description = (
        "Tokenizer, pretraining, instruction tuning, preferences, int8, report. Finished steps are not repeated."
    )
    parser = ConfigurationParser(SpeedrunConfig, "python 08_evaluation/speedrun.py", description)
    config, _ = parser.parse(arguments)
    return report_user_errors(lambda: Speedrun(config, Console()).run())
