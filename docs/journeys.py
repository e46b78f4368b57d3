"""Three journeys through the house: which files run when a text is encoded, a step is trained, a chat message answered.

python docs/journeys.py            # the files, in the order of the stages

These are the files that somebody opens who follows the call from beginning to end. docs/architecture.md says how many.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]


class Trace:
    """Notes the files whose functions are called, in every thread that is started after `watch_threads`."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._watching = False

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if self._watching and event == "call":
            self._files.add(frame.f_code.co_filename)

    def watch_threads(self) -> None:
        """Have new threads traced; call it before the engine and the server start theirs."""
        threading.setprofile(self._note)

    @contextlib.contextmanager
    def journey(self) -> Iterator[None]:
        """While inside, calls are noted."""
        self._files, self._watching = set(), True
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._watching = False

    def files(self) -> list[str]:
        """The stages' files of the last journey, relative to the repository, in order."""
        files = (Path(name) for name in self._files)
        inside = {path.relative_to(ROOT) for path in files if path.is_relative_to(ROOT)}
        kernels = ROOT / "07_optimization" / "optimization" / "kernels"
        if kernels / "step.py" in map(
            ROOT.joinpath, inside
        ):  # compiled functions cannot be traced: all of them are used
            inside.update(path.relative_to(ROOT) for path in kernels.glob("[a-z]*.py"))
        return sorted(path.as_posix() for path in inside if path.parts[0].startswith("0"))


def encode(trace: Trace) -> None:
    """A text becomes ids."""
    from tokenizer import train_bpe

    tokenizer = train_bpe(["Return the number of items in the container."], 280)
    with trace.journey():
        tokenizer.encode("Return the items.")


def train_one_step(trace: Trace) -> None:
    """A batch becomes a loss, the loss gradients, the gradients new weights."""
    import numpy as np
    import torch

    from tokenizer import ByteTokenizer
    from training import Trainer
    from training.data.data_loader import WindowLoader
    from training.loss import next_token_loss
    from training.placement import Placement
    from training.recipe import Recipe
    from training.trainer import Run
    from transformer import GPTConfig, GPTModel

    tokenizer = ByteTokenizer()
    model = GPTModel(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=16, num_layers=1, num_heads=2, d_model=32)
    )
    loader = WindowLoader({"text": np.arange(200, dtype=np.uint16)}, 16, seed=0)
    placement = Placement(torch.device("cpu"), torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), tokenizer)
        trainer = Trainer(model, next_token_loss(), loader, recipe=Recipe(), placement=placement, run=run)
        with trace.journey():
            trainer.take_step()


def answer_a_chat(trace: Trace) -> None:
    """A message comes in over HTTP, and the answer goes out."""
    import torch
    from fastapi.testclient import TestClient

    from deployment.app import create_app
    from deployment.served_model import ServedModel
    from deployment.settings import load_settings
    from finetuning import chat_template
    from optimization import Engine
    from tokenizer import BPETokenizer
    from training.placement import Placement
    from transformer import GPTConfig, GPTModel

    template = chat_template("nullm")
    tokenizer = BPETokenizer([], template.special_tokens)
    model = GPTModel(
        GPTConfig(vocab_size=tokenizer.vocab_size, context_length=64, num_layers=1, num_heads=2, d_model=32)
    )
    trace.watch_threads()
    served = ServedModel("tiny", Engine(model, tokenizer, Placement(torch.device("cpu"), torch.float32)), template)
    app = create_app({"tiny": served}, load_settings(None, {"port": 0}))
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "logit_bias": {}}
    with TestClient(app, base_url="http://localhost") as client, trace.journey():
        assert client.post("/v1/chat/completions", json=body).status_code == 200


JOURNEYS: dict[str, Callable[[Trace], None]] = {
    "one call of encode": encode,
    "one step of training": train_one_step,
    "one chat message": answer_a_chat,
}


def main() -> None:
    """Go on each journey and print its files."""
    for name, go in JOURNEYS.items():
        trace = Trace()
        go(trace)
        files = trace.files()
        print(f"{name}: {len(files)} files")
        for file in files:
            print(f"  {file}")


if __name__ == "__main__":
    main()
