"""Answers that look right: each was once let through by the questions of its exercise, or nearly."""

from __future__ import annotations

import pytest
from support.answers import assert_fails, assert_passes

pytestmark = pytest.mark.slow

SOFTMAX = """
    p = np.exp(x.data - {shift})
    p = p / p.sum(axis=axis, keepdims=True)
    return Tensor.from_operation(p, (x,), lambda g: (p * (g - (g * p).sum(axis=axis, keepdims=True)),), "softmax")
"""
CROSS_ENTROPY = """
    shifted = logits.data - {shift}
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_p, targets[..., None], -1)
    def backward(g):
        y = np.zeros_like(log_p)
        np.put_along_axis(y, targets[..., None], 1, -1)
        return ((np.exp(log_p) - y) * (g / targets.size),)
    return Tensor.from_operation(-picked.mean(), (logits,), backward, "cross_entropy")
"""
HEADS = """
    batch, time, _ = x.shape
    q, k, v = (
        f(x).view(batch, time, n, self.head_dim).transpose(1, 2)
        for f, n in ((self.query, self.num_heads), (self.key, self.num_kv_heads), (self.value, self.num_kv_heads))
    )
    q = q if self.query_norm is None else self.query_norm(q)
    k = k if self.key_norm is None else self.key_norm(k)
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    if store is not None:
        k, v = store.update(self.layer, k, v)
    keys = k.shape[-2]
    if allowed is None:
        allowed = causal_mask(time, keys, {rule}, device={device})
    bias = None if score_bias is None else score_bias(time, keys)
    return self.output(attention_reference(q, k, v, allowed, bias)[0].transpose(1, 2).flatten(2))
"""
TILED = """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    positions = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
    m = torch.full(q.shape[:-1], -torch.inf, dtype=q.dtype, device=q.device)
    l, a = torch.zeros_like(m), torch.zeros_like(q)
    if {whole}:
        m = (q.flatten(0, 2) @ k.flatten(0, 2).T).max() / math.sqrt(q.shape[-1]) + torch.zeros_like(l)
    for start in range(0, k.shape[2], tile):
        columns = torch.arange(start, min(start + tile, k.shape[2]), device=q.device)
        s = q @ k[:, :, columns].mT / math.sqrt(q.shape[-1])
        if causal:
            s = s.masked_fill(~visible_keys(positions, columns), -torch.inf)
        new = torch.maximum(m, {largest})
        c, w = (m - new).exp(), (s - new[..., None]).exp()
        l, a, m = c * l + w.sum(-1), c[..., None] * a + w @ v[:, :, columns], new
    return a / l[..., None], m + l.log()
"""
SPLIT = """
    names = allowed_names(special_ids, allowed)
    if not names:
        yield text, None
        return
    alternatives = "|".join(map(regex.escape, {names}))
    for index, piece in enumerate(regex.split(f"({{alternatives}})", text)):
        if piece:
            yield piece, special_ids[piece] if index % 2 else None
"""
STOP = """
    if self.stopped:
        return ""
    text = self._held + piece
    found = [place for string in self._strings if (place := text.{find}(string)) >= 0]
    if found:
        self.stopped, self._held = True, ""
        return text[:min(found)]
    keep = max(
        (n for string in self._strings for n in range(1, len(string)) if text.endswith(string[:n])), default=0
    )
    self._held = text[len(text) - keep:]
    return text[:len(text) - keep]
"""
CAUSAL = "{start}\n    return visible_keys({queries}, keys, window, sinks)"
ADAM = """
    self.steps += 1
    b1, b2 = self.betas
    for i, g in enumerate(gradients):
        g = g.reshape(-1)
        self.means[i] = b1 * self.means[i] + (1 - b1) * g
        self.squares[i] = b2 * self.squares[i] + (1 - b2) * g * g
        change = self.lr * self.means[i] / (1 - b1**self.steps)
        change = change / (np.sqrt(self.squares[i] / (1 - b2**self.steps)) + self.eps)
        {update}
"""
TABLE = """
    positions, i = torch.arange(context_length), torch.arange(0, d_model, 2)
    angles = positions[:, None] / 10_000 ** (i / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1){end}
"""
ROTATED = "first, second = heads{of}.chunk(2, -1)\n    swapped = torch.cat([second, first], -1)\n"
ROTATED += "    return ({heads} * self.cos{to} + swapped * self.signed_sin{to}).to(heads.dtype)"

RIGHT = {
    "softmax": SOFTMAX.format(shift="x.data.max(axis=axis, keepdims=True)"),
    "cross_entropy": CROSS_ENTROPY.format(shift="logits.data.max(axis=-1, keepdims=True)"),
    "adam": ADAM.format(update="self.parameters[i] -= change"),
    "causal_mask": CAUSAL.format(
        start="keys = torch.arange(num_keys, device=device)", queries="keys[num_keys - num_queries:]"
    ),
    "document_mask": "same = documents[:, :, None] == documents[:, None, :]\n    time = documents.shape[1]\n"
    "    return (same & causal_mask(time, time, window, sinks, documents.device))[:, None]",
    "multi_head_attention": HEADS.format(rule="self.window, self.sinks", device="x.device"),
    "online_softmax": TILED.format(whole=False, largest="s.amax(-1)"),
    "split_special": SPLIT.format(names="sorted(names, key=len, reverse=True)"),
    "stop_strings": STOP.format(find="find"),
    "rms_norm": "y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)\n"
    "    return y if self.weight is None else y * self.weight.to(x.dtype)",
    "sinusoidal_table": TABLE.format(end=""),
    "rotary": "import torch\n    " + ROTATED.format(of="", heads="heads", to=".to(heads.dtype)"),
    "swiglu": "gate = self.gate(x)\n    return self.down(gate * gate.sigmoid() * self.up(x))",
    "unbroadcast": "while gradient.ndim > len(shape):\n        gradient = gradient.sum(axis=0)\n"
    "    axes = tuple(i for i, n in enumerate(shape) if n == 1)\n"
    "    return gradient.sum(axis=axes, keepdims=True) if axes else gradient",
    "repetition_penalty": "new = logits.clone()\n    for i in set(seen):\n"
    "        new[i] = new[i] * penalty if new[i] < 0 else new[i] / penalty\n    return new",
}

WRONG = [
    ("softmax", "the smallest is subtracted", SOFTMAX.format(shift="x.data.min(axis=axis, keepdims=True)")),
    ("softmax", "the mean is subtracted", SOFTMAX.format(shift="x.data.mean(axis=axis, keepdims=True)")),
    ("softmax", "one maximum for all", SOFTMAX.format(shift="x.data.max()")),
    ("softmax", "computed in float32", SOFTMAX.format(shift="x.data.max(axis=axis, keepdims=True)").replace(
        "np.exp(", "np.exp(np.float32(1) * ").replace("x.data -", "x.data.astype(np.float32) -")),
    ("softmax", "x is changed", "x.data -= x.data.max(axis=axis, keepdims=True)" + SOFTMAX.format(shift="0")),
    ("cross_entropy", "the smallest is subtracted", CROSS_ENTROPY.format(shift="logits.data.min(axis=-1, keepdims=True)")),
    ("cross_entropy", "the mean is subtracted", CROSS_ENTROPY.format(shift="logits.data.mean(axis=-1, keepdims=True)")),
    ("cross_entropy", "one maximum for all", CROSS_ENTROPY.format(shift="logits.data.max()")),
    ("adam", "others hold the old array", ADAM.format(update="self.parameters[i] = self.parameters[i] - change")),
    ("causal_mask", "built on the CPU", CAUSAL.format(
        start="keys = torch.arange(num_keys)", queries="keys[num_keys - num_queries:]")),
    ("causal_mask", "remembered", "return _made(num_queries, num_keys, window, sinks, device)\n\n\n"
     "import functools\n\n\n@functools.cache\ndef _made(n, m, window, sinks, device):\n"
     "    keys = torch.arange(m, device=device)\n    return visible_keys(keys[m - n:], keys, window, sinks)"),
    ("document_mask", "built on the CPU", "same = documents[:, :, None] == documents[:, None, :]\n"
     "    time = documents.shape[1]\n    return (same & causal_mask(time, time, window, sinks))[:, None]"),
    ("document_mask", "without sinks", "same = documents[:, :, None] == documents[:, None, :]\n"
     "    time = documents.shape[1]\n    return (same & causal_mask(time, time, window, device=documents.device))[:, None]"),
    ("multi_head_attention", "no window with a store", HEADS.format(
        rule="None if store else self.window, self.sinks", device="x.device")),
    ("multi_head_attention", "no sinks", HEADS.format(rule="self.window, 0", device="x.device")),
    ("multi_head_attention", "no sinks with a store", HEADS.format(
        rule="self.window, 0 if store else self.sinks", device="x.device")),
    ("multi_head_attention", "a mask on the CPU", HEADS.format(rule="self.window, self.sinks", device="None")),
    ("multi_head_attention", "cut off from its gradient", HEADS.format(
        rule="self.window, self.sinks", device="x.device").replace("f(x)", "f(x.detach())")),
    ("online_softmax", "one maximum for all", TILED.format(whole=True, largest="m")),
    ("online_softmax", "one maximum for all queries", TILED.format(whole=False, largest="s.max() + torch.zeros_like(m)")),
    ("split_special", "in no order", SPLIT.format(names="names")),
    ("split_special", "in the order of the vocabulary", SPLIT.format(names="[n for n in special_ids if n in names]")),
    ("split_special", "in alphabetical order", SPLIT.format(names="sorted(names)")),
    ("stop_strings", "the last occurrence", STOP.format(find="rfind")),
    ("rms_norm", "float64 in float32", "y = (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps))"
     ".to(x.dtype)\n    return y if self.weight is None else y * self.weight.to(x.dtype)"),
    ("rms_norm", "x is changed", "x *= torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)\n"
     "    return x if self.weight is None else x * self.weight.to(x.dtype)"),
    ("sinusoidal_table", "float64", TABLE.format(end=".double()")),
    ("rotary", "in place", "import torch\n    first, second = heads.chunk(2, -1)\n"
     "    swapped = torch.cat([second, first], -1)\n"
     "    return heads.mul_(self.cos.to(heads.dtype)).add_(swapped * self.signed_sin.to(heads.dtype))"),
    ("swiglu", "cut off from its gradient", "gate = self.gate(x).detach()\n"
     "    return self.down(gate * gate.sigmoid() * self.up(x))"),
    ("unbroadcast", "only contiguous gradients", "if not gradient.flags.c_contiguous:\n        return gradient\n"
     "    while gradient.ndim > len(shape):\n        gradient = gradient.sum(axis=0)\n"
     "    axes = tuple(i for i, n in enumerate(shape) if n == 1)\n"
     "    return gradient.sum(axis=axes, keepdims=True) if axes else gradient"),
    ("repetition_penalty", "float32", "new = logits.clone().float()\n    for i in set(seen):\n"
     "        new[i] = new[i] * penalty if new[i] < 0 else new[i] / penalty\n    return new"),
    ("repetition_penalty", "remembers", "_seen.update(seen)\n    new = logits.clone()\n    for i in _seen:\n"
     "        if i < len(new):\n            new[i] = new[i] * penalty if new[i] < 0 else new[i] / penalty\n"
     "    return new\n\n\n_seen = set()"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name: str):
    assert_passes(name, RIGHT[name])


@pytest.mark.parametrize(("name", "what", "body"), WRONG, ids=[f"{name}: {what}" for name, what, _ in WRONG])
def test_a_wrong_answer_fails(name: str, what: str, body: str):
    assert_fails(name, what, body)
