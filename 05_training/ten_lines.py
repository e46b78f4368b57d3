"""Training in ten lines, before everything else is added.

    python 05_training/ten_lines.py

Predicts the next character of the Zen of Python. Every part of the real trainer replaces or surrounds one
of these lines.
"""

import codecs
import contextlib
import io

import torch
import torch.nn.functional as F

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

with contextlib.redirect_stdout(io.StringIO()):  # the module prints itself when it is imported
    import this

text = codecs.decode(this.s, "rot13")
letters = sorted(set(text))

torch.manual_seed(0)
ids = torch.tensor([letters.index(letter) for letter in text])
model = GPTModel(GPTConfig(vocab_size=len(letters), context_length=32, num_layers=2, d_model=64))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(201):
    starts = torch.randint(len(ids) - 33, (16,))
    windows = torch.stack([ids[start : start + 33] for start in starts])  # (16, 33)
    loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0:
        print(f"step {step:>3}  loss {loss.item():.3f}")
