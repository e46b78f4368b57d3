"""Load any checkpoint for inference: one that was trained, or one that was quantized."""

from __future__ import annotations

from pathlib import Path

import torch

from training.checkpoint import LoadedModel, load_model


def load_for_inference(path: Path | str, device: torch.device) -> LoadedModel:
    """The model and tokenizer of a checkpoint.

    Raises:
        CheckpointError: missing, damaged or inconsistent.
    """
    return load_model(path, device)
