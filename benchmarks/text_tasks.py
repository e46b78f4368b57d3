"""Instructions with one right answer, in Alpaca's fields: small changes to words and names, and sums.

python benchmarks/text_tasks.py text_tasks.jsonl --records 320

They ask for a form more than for knowledge, so that a small model can learn them and the answer to another question does
not help.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from groundwork.files import write_atomically

WORDS = [
    "apple",
    "bridge",
    "candle",
    "door",
    "engine",
    "forest",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "quilt",
    "river",
    "saddle",
    "table",
    "umbrella",
    "valley",
    "window",
    "yellow",
    "basket",
    "corner",
    "dinner",
    "finger",
    "letter",
    "market",
    "number",
    "paper",
    "ribbon",
    "silver",
    "ticket",
    "village",
    "winter",
    "copper",
    "feather",
    "lantern",
]

Task = Callable[[list[str], random.Random], tuple[str, str]]  # words → what is given, and the answer

TASKS: dict[str, Task] = {
    "Sort these words alphabetically.": lambda words, _: (" ".join(words), " ".join(sorted(words))),
    "Write these words in reverse order.": lambda words, _: (" ".join(words), " ".join(reversed(words))),
    "Join these words with hyphens.": lambda words, _: (" ".join(words), "-".join(words)),
    "Write these words as one name in snake_case.": lambda words, _: (" ".join(words), "_".join(words)),
    "Write these words as one name in CamelCase.": lambda words, _: (" ".join(words), "".join(map(str.title, words))),
    "Give only the last of these words.": lambda words, _: (" ".join(words), words[-1]),
    "Write these words in capital letters.": lambda words, _: (" ".join(words), " ".join(words).upper()),
    "Add the two numbers.": lambda _, chance: _sum(chance.randint(10, 99), chance.randint(10, 99)),
}


def _sum(a: int, b: int) -> tuple[str, str]:
    return f"{a} and {b}", str(a + b)


def make_records(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Records that are all different.

    Args:
        count: how many.
        seed: decides all of them.
    """
    chance, records = random.Random(seed), dict[tuple[str, str], str]()
    while len(records) < count:
        instruction = chance.choice(list(TASKS))
        given, answer = TASKS[instruction](chance.sample(WORDS, chance.randint(2, 4)), chance)
        records[instruction, given] = answer
    return [{"instruction": key[0], "input": key[1], "output": answer} for key, answer in records.items()]


def main() -> int:
    """Write the file; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write instructions in Alpaca's fields as JSONL.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--records", type=int, default=320)
    options = parser.parse_args()
    write_atomically(options.output, "".join(json.dumps(record) + "\n" for record in make_records(options.records)))
    print(f"{options.records} records in {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
