"""Stage 8: how good is it, and how sure can we be?"""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from evaluation.calibration import calibrate as calibrate
    from evaluation.scaling.law import fit_scaling_law as fit_scaling_law
    from evaluation.significance import bootstrap_interval as bootstrap_interval, compare_paired as compare_paired
    from evaluation.sliding_window import TextScores as TextScores, score_text as score_text
    from evaluation.tasks.benchmark import Evaluator as Evaluator
    from evaluation.tasks.task import Task as Task, load_task as load_task
    from evaluation.text_overlap import corpus_bleu as corpus_bleu, rouge_l as rouge_l
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "calibration": ("calibrate",),
            "scaling.law": ("fit_scaling_law",),
            "significance": ("bootstrap_interval", "compare_paired"),
            "sliding_window": ("TextScores", "score_text"),
            "tasks.benchmark": ("Evaluator",),
            "tasks.task": ("Task", "load_task"),
            "text_overlap": ("corpus_bleu", "rouge_l"),
        },
    )
