"""Stage 5: from token files to a trained checkpoint."""

from typing import TYPE_CHECKING

from groundwork.front_door import open_front_door

if TYPE_CHECKING:
    from training.checkpoints.checkpoint import (
        load_model as load_model,
        newest_run as newest_run,
    )
    from training.checkpoints.saving import save_checkpoint as save_checkpoint
    from training.loss import cross_entropy as cross_entropy
    from training.optimizers.adamw import AdamW as AdamW
    from training.optimizers.muon import Muon as Muon
    from training.placement import Placement as Placement, choose_placement as choose_placement
    from training.recipe import Recipe as Recipe, TrainingConfig as TrainingConfig
    from training.run.config import RunConfig as RunConfig
    from training.run.pretraining import run_training as run_training
    from training.trainer import Run as Run, Trainer as Trainer
else:
    __getattr__, __dir__, __all__ = open_front_door(
        __name__,
        {
            "checkpoints.checkpoint": ("load_model", "newest_run"),
            "checkpoints.saving": ("save_checkpoint",),
            "loss": ("cross_entropy",),
            "optimizers.adamw": ("AdamW",),
            "optimizers.muon": ("Muon",),
            "placement": ("Placement", "choose_placement"),
            "run.config": ("RunConfig",),
            "run.pretraining": ("run_training",),
            "recipe": ("Recipe", "TrainingConfig"),
            "trainer": ("Run", "Trainer"),
        },
    )
