"""Lab 4.A: The text comes back, in more tokens than there should be.

A BPE tokenizer encodes and decodes every text exactly, and all tests of that pass. But with the function below a text has
more tokens than in the run beside it. And the same word gets different ids in a short text and in a long one, which takes
the compiled loop. A model is trained on the one and then served with the other.
"""

from __future__ import annotations

from tokenizer.merging import Merger


def merge(self: Merger, pre_token: bytes) -> list[int]:
    """The tokens of one pre-token.

    Args:
        self: `self._merged` maps a pair of tokens to the token it becomes. Tokens are numbered in the order in which
            their merges were learned.
        pre_token: bytes; it may be empty.
    """
    tokens = list(pre_token)
    while True:
        for i in range(len(tokens) - 1):
            new = self._merged.get((tokens[i], tokens[i + 1]))
            if new is not None:
                tokens[i : i + 2] = [new]
                break
        else:
            return tokens


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

from pydoc_data.topics import topics

import numpy as np

from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.tokenizer_trainer import train_bpe

TEXT = "\n".join(topics[name] for name in ("while", "try", "with"))  # from Python's own documentation
WORDS = ("statement", "context", "exception", "implementation")


def measure() -> Measurement:
    """Learn merges from a text, and encode it line by line and all at once."""
    trained = train_bpe([TEXT], 600)
    tokenizer = BPETokenizer(trained.merges)  # so that nothing is remembered from earlier encodings
    lines = TEXT.splitlines(keepends=True)
    ids = [tokenizer.encode(line) for line in lines]
    back = "".join(tokenizer.decode(line) for line in ids) == TEXT
    in_one_go = tokenizer.encode_batch_to_array(lines)[0]
    apart = np.array([token for line in ids for token in line])
    pieces = {
        word: " · ".join(tokenizer.decode([token]).replace(" ", "␣") for token in tokenizer.encode(" " + word))
        for word in WORDS
    }
    return {
        "decodes to the same text": "yes" if back else "no",
        "tokens, line by line": len(apart),
        "tokens, all at once": len(in_one_go),
        **{f"pieces of {word!r}": text for word, text in pieces.items()},
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """It makes more tokens than the package's function, though the text comes back."""
    name = "tokens, line by line"
    return file["decodes to the same text"] == "yes" and int(file[name]) > int(package[name])  # type: ignore[arg-type]


LAB = Lab(
    broken=merge,
    reference="tokenizer.merging:Merger.merge",
    cases=load_exercise("merge").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            """        for i in range(len(tokens) - 1):
            new = self._merged.get((tokens[i], tokens[i + 1]))
            if new is not None:
                tokens[i : i + 2] = [new]
                break
        else:
            return tokens
""",
            """        pairs = [(self._merged.get((tokens[i], tokens[i + 1])), i) for i in range(len(tokens) - 1)]
        possible = [(new, i) for new, i in pairs if new is not None]
        if not possible:
            return tokens
        new, i = min(possible)
        tokens[i : i + 2] = [new]
""",
        ),
    ],
    hints=(
        "That a text comes back proves nothing about the ids: any way of cutting it into known pieces decodes to it. "
        "Compare ids, with a tokenizer that is known to be right or with merge_steps.",
        "Take a word that is cut differently and follow it merge by merge, here and in tokenizer.merge_steps(' implementation'). "
        "At which merge do the two begin to differ?",
        "Of all pairs that could be merged, the one that was *learned* first must be merged first, wherever it stands: it makes "
        "the smallest new token. Here the leftmost is merged first.",
    ),
    diagnosis=(
        "A round trip cannot show it. Two figures can: the number of tokens of a text, which should be the same for every "
        "way of encoding it, and the pieces of single words beside merge_steps. The first merge already differs: it takes "
        "the leftmost pair that has a merge, but BPE takes the pair whose merge was learned first. Learned merges are "
        "only as good as the order in which they are applied. In a test, compare ids with tiktoken or tokenizers, not texts."
    ),
)
