"""Wrong answers to the exercises of stages 5 to 9 that look right, besides those that the exercises know."""

from __future__ import annotations

import pytest
from support.answers import assert_fails, assert_passes

pytestmark = pytest.mark.slow

RIGHT = {
    "sgd": """
    for group in self.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                d = p.grad + group["weight_decay"] * p
                if group["momentum"]:
                    v = self.state[p].get("momentum_buffer")
                    d = self.state[p]["momentum_buffer"] = d if v is None else group["momentum"] * v + d
                p -= group["lr"] * d
""",
    "newton_schulz": "a, b, c = COEFFICIENTS\n    x = matrices.float() / matrices.float().norm(dim=(-2, -1), keepdim=True)"
    ".clamp(min=EPS)\n    for _ in range(rounds):\n        s = x @ x.mT\n        x = a * x + b * s @ x + c * s @ s @ x\n"
    "    return x.bfloat16()",
    "nf4_levels": "from statistics import NormalDist\n    o, q = (2 - 1 / 32 - 1 / 30) / 2, NormalDist().inv_cdf\n"
    "    two = [[q(o + (0.5 - o) * i / n) for i in range(n)] for n in (8, 7)]\n"
    "    return torch.tensor(sorted([0.0, *two[0], *(-x for x in two[1])]), dtype=torch.float64).div(two[0][0]).float()",
    "calibration": "where = np.searchsorted(np.linspace(0, 1, bins + 1)[1:], confidence)\n"
    "    n = np.array([(where == b).sum() for b in range(bins)])\n"
    "    mean = lambda x: np.array([x[where == b].mean() if n[b] else 0.0 for b in range(bins)])\n"
    "    return Calibration(n, mean(confidence), mean(correct))",
    "bootstrap": "v = np.asarray(values, float)\n    w = np.ones(len(v)) if weights is None else np.asarray(weights, float)\n"
    "    rng, found = np.random.RandomState(seed), []\n    for _ in range(resamples):\n"
    "        i = rng.choice(len(v), len(v))\n        found.append(v[i].sum() / w[i].sum())\n"
    "    low, high = np.percentile(found, [50 - 50 * confidence, 50 + 50 * confidence])\n"
    "    return Interval(v.sum() / w.sum(), low, high)",
    "body_limit": """
    if scope["type"] != "http":
        return await self._app(scope, receive, send)
    length, most = Headers(scope=scope).get("content-length", "0"), self._limits.max_body_bytes
    if set(length) - set("0123456789") or not length or int(length) > most:
        raise ApiError(413, "too large")
    end, seen, done = asyncio.get_running_loop().time() + self._limits.body_seconds, 0, False
    async def limited():
        nonlocal seen, done
        if done:
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise ApiError(408, "too slow")
        seen, done = seen + len(message.get("body", b"")), not message.get("more_body", False)
        if seen > most:
            raise ApiError(413, "too large")
        return message
    await self._app(scope, limited, send)
""",
}

LIMITED = RIGHT["body_limit"]
WRONG = [
    ("smoothed_cross_entropy", "logits are shifted in place", "logits -= logits.amax(-1, keepdim=True)\n"
     "    return torch.nn.functional.cross_entropy(logits, targets, reduction='none')"),
    ("smoothed_cross_entropy", "ignored ones are left out", "losses = torch.nn.functional.cross_entropy(logits.float(), "
     "targets, reduction='none', label_smoothing=label_smoothing)\n    return losses[targets != IGNORED]"),
    ("smoothed_cross_entropy", "-100 as an index", "z = logits.float()\n"
     "    return z.logsumexp(-1) - z[torch.arange(len(z)), targets]"),
    ("chunked_loss", "numbers instead of tensors", "h, t = hidden.flatten(0, -2), targets.flatten()\n"
     "    total = sum(cross_entropy(h[i:i+512] @ weight.T, t[i:i+512]).sum().item() for i in range(0, len(t), 512))\n"
     "    return torch.tensor(total / max(1, int((t != IGNORED).sum())))"),
    ("chunked_loss", "a head that does not learn", "h, t, w = hidden.flatten(0, -2), targets.flatten(), weight.detach()\n"
     "    total = sum(cross_entropy(h[i:i+512] @ w.T, t[i:i+512]).sum() for i in range(0, len(t), 512))\n"
     "    return total / (t != IGNORED).sum().clamp(min=1)"),
    ("chunked_loss", "gradients are always computed", "h = hidden.flatten(0, -2)\n    t = targets.flatten()\n"
     "    loss = cross_entropy(h @ weight.T, t, label_smoothing, z_loss).sum() / (t != IGNORED).sum().clamp(min=1)\n"
     "    torch.autograd.grad(loss, [hidden], retain_graph=True) if hidden.requires_grad else loss.backward()\n"
     "    return loss"),
    ("schedule", "progress is that of the whole run", "if step < config.warmup_steps:\n"
     "        return (step + 1) / config.warmup_steps\n    p, f = min(1, step / max_steps), config.final_fraction\n"
     "    return f + (1 - f) * (1 + math.cos(math.pi * p)) / 2 if config.kind == 'cosine' else f + (1 - f) * (1 - p)"),
    ("schedule", "constant without a warm-up", "return 1.0 if config.kind == 'constant' else min(1.0, (step + 1) / 2)"),
    ("schedule", "half a step is rounded up", "w, f = config.warmup_steps, config.final_fraction\n"
     "    step = min(step, max_steps)\n    if step < w:\n        return (step + 1) / w\n"
     "    if config.kind == 'constant':\n        return 1.0\n    if config.kind == 'inverse_sqrt':\n"
     "        return math.sqrt(max(1, w) / (step + 1))\n"
     "    if config.kind == 'wsd':\n        w = max(w, int(max_steps * (1 - config.decay_fraction) + 0.5))\n"
     "    p = (step - w) / max(1, max_steps - w)\n    if p < 0:\n        return 1.0\n"
     "    c = (1 + math.cos(math.pi * p)) / 2 if config.kind == 'cosine' else 1 - p\n    return f + (1 - f) * c"),
    ("clip_gradients", "PyTorch's own", "return torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()"),
    ("clip_gradients", "a factor of at most 1", "p = [p for p in parameters if p.grad is not None]\n"
     "    n = math.sqrt(sum(x.grad.float().square().sum().item() for x in p))\n    if max_norm and math.isfinite(n):\n"
     "        [x.grad.mul_(min(1.0, max_norm / (n + 1e-6))) for x in p]\n    return n"),
    ("clip_gradients", "the squares of the parameters", "p = [p for p in parameters if p.grad is not None]\n"
     "    return math.sqrt(sum(x.float().square().sum().item() for x in p))"),
    ("sgd", "the gradient is the buffer", RIGHT["sgd"].replace("d = p.grad + group[\"weight_decay\"] * p",
     "d = p.grad.add(p, alpha=group['weight_decay']) if group['weight_decay'] else p.grad")),
    ("sgd", "gradients are cleared", RIGHT["sgd"] + "                p.grad = None\n"),
    ("sgd", "the rate is in v", RIGHT["sgd"].replace("d = p.grad +", "d = group['lr'] * (p.grad +").replace(
     "* p\n", "* p)\n").replace('p -= group["lr"] * d', "p -= d")),
    ("sgd", "a buffer without momentum", RIGHT["sgd"].replace('if group["momentum"]:', "if True:")),
    ("adamw", "the corrected mean is kept", """
    for group in self.param_groups:
        (b1, b2), lr = group["betas"], group["lr"]
        for p in group["params"]:
            if p.grad is not None:
                s = self.state[p]
                s["step"] = s.get("step", torch.tensor(0.0)) + 1
                t = s["step"].item()
                s["exp_avg"] = (b1 * s.get("exp_avg", torch.zeros_like(p)) + (1 - b1) * p.grad) / (1 - b1**t)
                s["exp_avg_sq"] = (b2 * s.get("exp_avg_sq", torch.zeros_like(p)) + (1 - b2) * p.grad**2) / (1 - b2**t)
                p.mul_(1 - lr * group["weight_decay"]).sub_(lr * s["exp_avg"] / (s["exp_avg_sq"].sqrt() + group["eps"]))
"""),
    ("adamw", "the count is a number", """
    for group in self.param_groups:
        (b1, b2), lr = group["betas"], group["lr"]
        for p in group["params"]:
            if p.grad is not None:
                s = self.state[p]
                t = s["step"] = s.get("step", 0) + 1
                m = s["exp_avg"] = b1 * s.get("exp_avg", torch.zeros_like(p)) + (1 - b1) * p.grad
                v = s["exp_avg_sq"] = b2 * s.get("exp_avg_sq", torch.zeros_like(p)) + (1 - b2) * p.grad**2
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + group["eps"]))
"""),
    ("adamw", "nothing is returned or done", "pass"),
    ("newton_schulz", "the spectral norm", RIGHT["newton_schulz"].replace("norm(dim=(-2, -1), keepdim=True)",
     "pow(1).svd()[1][..., :1, None]")),
    ("newton_schulz", "always five rounds", RIGHT["newton_schulz"].replace("range(rounds)", "range(5)")),
    ("newton_schulz", "axes in front are flattened", RIGHT["newton_schulz"].replace("x.mT", "x.T")),
    ("weight_average", "a copy", "for name, p in self.parameters.items():\n        self.averages[name].copy_(p)"),
    ("weight_average", "a new name for the average", "for name, p in self.parameters.items():\n"
     "        a = self.averages[name]\n        a = self.decay * a + (1 - self.decay) * p"),
    ("weight_average", "a decay of its own", "for name, p in self.parameters.items():\n"
     "        self.averages[name].lerp_(p, 0.1)"),
    ("chat_encoding", "one text", "text = self.begin + ''.join(self.header.format(role=m.role) + m.content.strip() + self.end\n"
     "        + self.separator for m in conversation)\n    ids = tokenizer.encode(text, allowed_special=self.special_tokens)\n"
     "    return EncodedConversation(ids, [False] * len(ids))"),
    ("chat_encoding", "None", "return None"),
    ("pack_rows", "positions of the row", "from finetuning.data import conversation_batches as c\n"
     "    x = torch.zeros(len(rows), context_length, dtype=torch.long)\n    y, d = torch.full_like(x, IGNORED), x - 1\n"
     "    for r, row in enumerate(rows):\n        at = 0\n        for n, one in enumerate(row):\n"
     "            for i in range(len(one.ids) - 1):\n                x[r, at], d[r, at] = one.ids[i], n\n"
     "                y[r, at] = one.ids[i + 1] if one.learned[i + 1] else IGNORED\n                at += 1\n"
     "    t = {'inputs': x, 'targets': y, 'positions': torch.arange(context_length).expand_as(x),"
     " 'allowed': document_mask(d)}\n    return Batch(t, float((y != IGNORED).sum()))"),
    ("pack_rows", "ids in 32 bits", "x = torch.zeros(len(rows), context_length, dtype=torch.int32)\n"
     "    t = {'inputs': x, 'targets': x + IGNORED, 'positions': x, 'allowed': document_mask(x)}\n    return Batch(t, 0.0)"),
    ("lora", "the correction does not learn", "import torch\n    with torch.no_grad():\n"
     "        c = self.config.scale * (x @ self.lora_a.T @ self.lora_b.T)\n    return base(x) + c"),
    ("lora", "a dropout of its own", "return base(x) + self.config.scale * (F.dropout(x, 0.1, self.training) @ self.lora_a.T "
     "@ self.lora_b.T)"),
    ("lora", "one length for the matrix", "y = base(x) + self.config.scale * (x @ self.lora_a.T @ self.lora_b.T)\n"
     "    w = base.weight + self.config.scale * (self.lora_b @ self.lora_a)\n"
     "    return y if self.magnitude is None else self.magnitude / w.norm().detach() * y"),
    ("merged_weight", "one length for the matrix", "w = base.weight + self.config.scale * (self.lora_b @ self.lora_a)\n"
     "    return w if self.magnitude is None else self.magnitude[:, None] * w / w.norm()"),
    ("merged_weight", "float32", "w = base.weight.float() + self.config.scale * (self.lora_b @ self.lora_a).float()\n"
     "    return w if self.magnitude is None else (self.magnitude / w.norm(dim=1))[:, None] * w"),
    ("merged_weight", "into the layer", "base.weight.data += self.config.scale * (self.lora_b @ self.lora_a)\n"
     "    return base.weight"),
    ("bradley_terry", "a hinge", "return F.relu(1 - (chosen - rejected)).mean()"),
    ("bradley_terry", "without ln", "return -(chosen - rejected).sigmoid().mean()"),
    ("bradley_terry", "float32", "return -F.logsigmoid((chosen - rejected).float()).mean()"),
    ("dpo", "the sum", "m = config.beta * (policy_chosen - reference_chosen - policy_rejected + reference_rejected)\n"
     "    return -F.logsigmoid(m).sum()"),
    ("dpo", "one sign", "m = (policy_chosen - reference_chosen) - (policy_rejected + reference_rejected)\n"
     "    return -F.logsigmoid(config.beta * m).mean()"),
    ("dpo", "ε turned round", "m, e = policy_chosen - reference_chosen - policy_rejected + reference_rejected, "
     "config.label_smoothing\n    if config.loss == 'ipo':\n        return (m - 1 / (2 * config.beta)).square().mean()\n"
     "    m = config.beta * m\n    return -(e * F.logsigmoid(m) + (1 - e) * F.logsigmoid(-m)).mean()"),
    ("group_advantages", "another ε", "c = rewards - rewards.mean(1, True)\n    return c / (c.square().mean(1, True).sqrt() + 1e-4)"),
    ("group_advantages", "float32", "r = rewards.float()\n    c = r - r.mean(1, True)\n"
     "    return c / (c.square().mean(1, True).sqrt() + 1e-6)"),
    ("group_advantages", "at least ε", "c = rewards - rewards.mean(1, True)\n"
     "    return c / c.square().mean(1, True).sqrt().clamp(min=1e-6)"),
    ("grpo", "clipped on one side", "r, a = (new - old).exp(), advantages[:, None]\n    d = reference - new\n"
     "    g = (torch.minimum(r * a, r.clamp(max=1 + config.clip) * a) - config.beta * (d.exp() - d - 1)) * counted\n"
     "    return -(g.sum(1) / counted.sum(1).clamp(min=1)).mean()"),
    ("grpo", "sums over tokens", "r, a = (new - old).exp(), advantages[:, None]\n    d = reference - new\n"
     "    g = torch.minimum(r * a, r.clamp(1 - config.clip, 1 + config.clip) * a) - config.beta * (d.exp() - d - 1)\n"
     "    return -(g * counted).sum(1).mean()"),
    ("grpo", "float32", "new, old, reference, a = new.float(), old.float(), reference.float(), advantages.float()[:, None]\n"
     "    r, d = (new - old).exp(), reference - new\n"
     "    g = torch.minimum(r * a, r.clamp(1 - config.clip, 1 + config.clip) * a) - config.beta * (d.exp() - d - 1)\n"
     "    return -((g * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()"),
    ("nf4_levels", "float32 on the way", "o, q = (2 - 1 / 32 - 1 / 30) / 2, torch.special.ndtri\n"
     "    x = torch.cat([q(torch.linspace(o, 0.5, 9)[:-1]), torch.zeros(1), -q(torch.linspace(o, 0.5, 8)[:-1])]).sort()[0]\n"
     "    return x / x[-1]"),
    ("nf4_levels", "the wrong end", "o, q = (2 - 1 / 32 - 1 / 30) / 2, torch.special.ndtri\n"
     "    a, b = torch.linspace(o, 0.5, 9)[1:], torch.linspace(o, 0.5, 8)[1:]\n"
     "    x = torch.cat([q(a), torch.zeros(1), -q(b)]).sort()[0]\n    return x / x[-1]"),
    ("nf4_levels", "equal shares", "x = torch.special.ndtri(torch.linspace(1 / 32, 31 / 32, 16))\n    return x / x[-1]"),
    ("kv_cache", "nothing is stored", "import torch\n    old = self._keys[layer, :, :, :self.length], "
     "self._values[layer, :, :, :self.length]\n    return torch.cat([old[0], keys], 2), torch.cat([old[1], values], 2)"),
    ("kv_cache", "another error", "stop = self.length + keys.shape[2]\n    if stop > self.capacity:\n"
     "        raise ValueError('full')\n    self._keys[layer, :, :, self.length:stop] = keys\n"
     "    self._values[layer, :, :, self.length:stop] = values\n"
     "    return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]"),
    ("kv_cache", "every layer", "stop = self.length + keys.shape[2]\n    if stop > self.capacity:\n"
     "        raise CacheFullError('full')\n    self._keys[:, :, :, self.length:stop] = keys\n"
     "    self._values[:, :, :, self.length:stop] = values\n"
     "    return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]"),
    ("cache_bytes", "the width", "return 2 * config.num_layers * config.d_model * dtype.itemsize"),
    ("cache_bytes", "bits", "return 16 * config.num_layers * config.kv_heads * config.head_size * dtype.itemsize"),
    ("cache_bytes", "a float", "v = config.head_size * dtype.itemsize + 4 * (dtype == torch.int8)\n"
     "    return str(2 * config.num_layers * config.kv_heads * v)"),
    ("block_table", "exchanged", "n = self.pool.block_size\n"
     "    return [self.blocks[p % n % len(self.blocks)] * n + p // n for p in range(start, stop)]"),
    ("block_table", "blocks of 4", "return [self.blocks[p // 4] * 4 + p % 4 for p in range(start, stop)]"),
    ("block_table", "positions from 0", "n = self.pool.block_size\n"
     "    return [self.blocks[p // n] * n + p % n for p in range(stop - start)]"),
    ("reserve_blocks", "all that is needed must be free", "need = -(-length // self.pool.block_size)\n"
     "    if need > self.pool.num_free:\n        raise OutOfBlocksError('no')\n    while len(self.blocks) < need:\n"
     "        self.blocks.append(self.pool.allocate(self.blocks[-1] if self.blocks else None))"),
    ("reserve_blocks", "blocks of 8", "while len(self.blocks) < -(-length // 8):\n"
     "        self.blocks.append(self.pool.allocate(self.blocks[-1] if self.blocks else None))"),
    ("reserve_blocks", "what is too much is given back", "while len(self.blocks) * self.pool.block_size > length:\n"
     "        self.blocks.pop()"),
    ("shared_prefix", "numbers of blocks", "out, parent, n = [], None, self.pool.block_size\n"
     "    for i in range(0, len(tokens) - n, n) if self.share else ():\n"
     "        parent = self.pool.find(parent, tuple(tokens[i:i + n]))\n        if parent is None:\n            break\n"
     "        out.append(parent.block)\n    return out"),
    ("shared_prefix", "a token is left, whatever is found", "out, parent, n = [], None, self.pool.block_size\n"
     "    for i in range(0, len(tokens) - 1, n) if self.share else ():\n"
     "        parent = self.pool.find(parent, tuple(tokens[i:i + n]))\n        if parent is None:\n            break\n"
     "        out.append(parent)\n    return out"),
    ("shared_prefix", "one block less", "out, parent, n = [], None, self.pool.block_size\n"
     "    for i in range(0, len(tokens) - 2 * n, n) if self.share else ():\n"
     "        parent = self.pool.find(parent, tuple(tokens[i:i + n]))\n        if parent is None:\n            break\n"
     "        out.append(parent)\n    return out"),
    ("quantize_rows", "the axis of the scale is lost", "x = x.float()\n    s = x.abs().amax(-1).clamp(min=1e-12) / 127\n"
     "    return (x / s[..., None]).round().to(torch.int8), s"),
    ("quantize_rows", "a zero point", "x = x.float()\n    s = (x.amax(-1, True) - x.amin(-1, True)).clamp(min=1e-12) / 254\n"
     "    return ((x - x.amin(-1, True)) / s - 127).round().to(torch.int8), s"),
    ("quantize_rows", "1 for a row of zeros", "x = x.float()\n    s = x.abs().amax(-1, True) / 127\n    s[s == 0] = 1.0\n"
     "    return (x / s).round().to(torch.int8), s"),
    ("speculative_acceptance", "divided", "q = 1.0 if guessed_with is None else float(guessed_with[guess])\n"
     "    u = torch.rand((), generator=generator, dtype=torch.float64).item()\n    if u < float(probabilities[guess]) / q:\n"
     "        return guess, True\n    r = probabilities.clone()\n    if guessed_with is None:\n        r[guess] = 0\n"
     "    else:\n        r = (r - guessed_with).clamp(min=0)\n"
     "    return draw_token(r if r.sum() > 0 else probabilities, generator), False"),
    ("speculative_acceptance", "another generator", "import random\n    q = 1.0 if guessed_with is None else guessed_with[guess]\n"
     "    return (guess, True) if random.random() * q < probabilities[guess] else "
     "(draw_token(probabilities, generator), False)"),
    ("speculative_acceptance", "no coin", "q = 1.0 if guessed_with is None else guessed_with[guess]\n"
     "    return (guess, True) if q <= probabilities[guess] else (draw_token(probabilities, generator), False)"),
    ("token_f1", "shares of nothing", "p, r = normalise_answer(prediction).split(), normalise_answer(reference).split()\n"
     "    n = sum(min(p.count(w), r.count(w)) for w in set(p))\n    return 2 * (n / len(p)) * (n / len(r)) / (n / len(p) + n / len(r))"),
    ("token_f1", "0 for two empty texts", "p, r = normalise_answer(prediction).split(), normalise_answer(reference).split()\n"
     "    n = sum(min(p.count(w), r.count(w)) for w in set(p))\n    return 2 * n / (len(p) + len(r)) if n else 0.0"),
    ("token_f1", "order counts", "p, r = normalise_answer(prediction).split(), normalise_answer(reference).split()\n"
     "    n = sum(a == b for a, b in zip(p, r))\n    return 2 * n / (len(p) + len(r)) if p and r else float(p == r)"),
    ("rouge_l", "difflib's blocks", "from difflib import SequenceMatcher\n"
     "    a, b = (re.findall(r'[a-z0-9]+', t.lower()) for t in (prediction, reference))\n"
     "    n = sum(m.size for m in SequenceMatcher(None, a, b, False).get_matching_blocks())\n"
     "    return 2 * n / (len(a) + len(b)) if n else 0.0"),
    ("rouge_l", "characters", "a, b = prediction.lower(), reference.lower()\n    t = [0] * (len(b) + 1)\n    for x in a:\n"
     "        t = [0, *(0 for _ in b)] if not t else t\n        new = [0]\n        for j, y in enumerate(b):\n"
     "            new.append(t[j] + 1 if x == y else max(t[j + 1], new[j]))\n        t = new\n"
     "    return 2 * t[-1] / (len(a) + len(b)) if t[-1] else 0.0"),
    ("rouge_l", "sets", "a, b = (set(re.findall(r'[a-z0-9]+', t.lower())) for t in (prediction, reference))\n"
     "    return 2 * len(a & b) / (len(a) + len(b)) if a & b else 0.0"),
    ("calibration", "NumPy's histogram", "n, e = np.histogram(confidence, bins, (0, 1))\n"
     "    s, r = (np.histogram(confidence, bins, (0, 1), weights=w)[0] for w in (confidence, correct))\n"
     "    return Calibration(n, s / np.maximum(n, 1), r / np.maximum(n, 1))"),
    ("calibration", "bins over what there is", "e = np.linspace(confidence.min(), confidence.max(), bins + 1)[1:]\n"
     "    w = np.clip(np.searchsorted(e, confidence), 0, bins - 1)\n    n = np.bincount(w, minlength=bins)\n"
     "    s, r = (np.bincount(w, x, bins) / np.maximum(n, 1) for x in (confidence, correct))\n    return Calibration(n, s, r)"),
    ("calibration", "15 bins", "w = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)\n    n = np.bincount(w, minlength=15)\n"
     "    s, r = (np.bincount(w, x, 15) / np.maximum(n, 1) for x in (confidence, correct))\n    return Calibration(n, s, r)"),
    ("bootstrap", "percentiles of shares", RIGHT["bootstrap"].replace("50 - 50 *", "0.5 - 0.5 *").replace("50 + 50 *", "0.5 + 0.5 *")),
    ("bootstrap", "the median", RIGHT["bootstrap"].replace("Interval(v.sum() / w.sum()", "Interval(np.median(found)")),
    ("bootstrap", "one item fewer", RIGHT["bootstrap"].replace("rng.choice(len(v), len(v))", "rng.choice(len(v) - 1, len(v))")),
    ("mcnemar", "one term", "a, b = np.asarray(a) == 1, np.asarray(b) == 1\n    x, y = int((a & ~b).sum()), int((b & ~a).sum())\n"
     "    return min(1.0, 2 * math.comb(x + y, min(x, y)) / 2 ** (x + y))"),
    ("mcnemar", "the larger", "a, b = np.asarray(a) == 1, np.asarray(b) == 1\n    x, y = int((a & ~b).sum()), int((b & ~a).sum())\n"
     "    return min(1.0, 2 * sum(math.comb(x + y, i) for i in range(max(x, y) + 1)) / 2 ** (x + y))"),
    ("mcnemar", "floats", "a, b = np.asarray(a) == 1, np.asarray(b) == 1\n    x, y = int((a & ~b).sum()), int((b & ~a).sum())\n"
     "    return min(1.0, sum(2.0 * math.comb(x + y, i) / 2.0 ** (x + y) for i in range(min(x, y) + 1)))"),
    ("distinct_n", "different within each text", "g = [{tuple(t.split()[i:i + n]) for i in range(len(t.split()) - n + 1)} for t in texts]\n"
     "    total = sum(max(0, len(t.split()) - n + 1) for t in texts)\n    return sum(map(len, g)) / total if total else 0.0"),
    ("distinct_n", "those that occur once", "g = [tuple(t.split()[i:i + n]) for t in texts for i in range(len(t.split()) - n + 1)]\n"
     "    return sum(g.count(x) == 1 for x in g) / len(g) if g else 0.0"),
    ("distinct_n", "in any order", "g = [frozenset(t.split()[i:i + n]) for t in texts for i in range(len(t.split()) - n + 1)]\n"
     "    return len(set(g)) / len(g) if g else 0.0"),
    ("continuation", "apart", "c = context.rstrip()\n"
     "    return tokenizer.encode(c) if c else [], tokenizer.encode(context[len(c):] + continuation)"),
    ("continuation", "a text is cut, not ids", "c = context.rstrip()\n    w = tokenizer.encode(c + context[len(c):] + continuation)\n"
     "    b = tokenizer.encode(c) if c else []\n    return w[:len(b)], w[len(b):]"),
    ("continuation", "an empty context is encoded", "c = context.rstrip()\n    rest = context[len(c):] + continuation\n"
     "    w, b = tokenizer.encode(c + rest), tokenizer.encode(c)\n"
     "    return (b, w[len(b):]) if w[:len(b)] == b and len(w) > len(b) else (b, tokenizer.encode(rest))"),
    ("sse", "no space", "t = json.dumps(data, separators=(',', ':'))\n"
     "    return (f'event:{event}\\n' if event else '').encode() + f'data:{t}\\n\\n'.encode()"),
    ("sse", "the end is missing", "t = json.dumps(data, separators=(',', ':'))\n"
     "    return ((f'event: {event}\\n' if event else '') + f'data: {t}').encode()"),
    ("sse", "a text is printed", "print(f'event: {event}\\ndata: {json.dumps(data)}\\n\\n')"),
    ("usage", "one prompt for all", "p, c = generations[0].stats, sum(g.stats.generated_tokens for g in generations)\n"
     "    return {'prompt_tokens': p.prompt_tokens, 'completion_tokens': c, 'total_tokens': p.prompt_tokens + c,\n"
     "            'prompt_tokens_details': {'cached_tokens': p.cached_tokens}}"),
    ("usage", "the last choice", "f = generations[n - 1::n]\n    p = sum(g.stats.prompt_tokens for g in f)\n"
     "    c = 0 if prompt_only else sum(g.stats.generated_tokens for g in generations)\n"
     "    return {'prompt_tokens': p, 'completion_tokens': c, 'total_tokens': p + c,\n"
     "            'prompt_tokens_details': {'cached_tokens': sum(g.stats.cached_tokens for g in f)}}"),
    ("usage", "a total with what is not asked for", "f = generations[::n]\n    p = sum(g.stats.prompt_tokens for g in f)\n"
     "    c = sum(g.stats.generated_tokens for g in generations)\n"
     "    return {'prompt_tokens': p, 'completion_tokens': 0 if prompt_only else c, 'total_tokens': p + c,\n"
     "            'prompt_tokens_details': {'cached_tokens': sum(g.stats.cached_tokens for g in f)}}"),
    ("find_key", "membership", "return next((n for n, h in hashes.items() if h == hash_key(presented)), None)"),
    ("find_key", "any first", "d = hash_key(presented)\n    if not any(hmac.compare_digest(d, h) for h in hashes.values()):\n"
     "        return None\n    return [n for n, h in hashes.items() if h == d][0]"),
    ("find_key", "every name", "d = hash_key(presented)\n    return ','.join(n for n, h in hashes.items() if hmac.compare_digest(d, h))"),
    ("host_check", "urlsplit", "from urllib.parse import urlsplit\n"
     "    host = urlsplit('//' + headers.get('host', '')).hostname or ''\n    if self._hosts and host not in self._hosts:\n"
     "        raise ApiError(403, f'host {host}', code='wrong_host')"),
    ("host_check", "lower case comes too late", "host = re.sub(r':\\d*$', '', headers.get('host', ''))\n"
     "    if self._hosts is not None and host not in self._hosts:\n"
     "        raise ApiError(403, f'host {host.lower()}', code='wrong_host')"),
    ("host_check", "another exception", "host = re.sub(r':\\d*$', '', headers.get('host', '')).lower()\n"
     "    if self._hosts is not None and host not in self._hosts:\n        raise PermissionError(host)"),
    ("body_limit", "a message always has bytes", LIMITED.replace('message.get("body", b"")', 'message["body"]')),
    ("body_limit", "isdigit", LIMITED.replace('set(length) - set("0123456789") or not length', "not length.isdigit()")),
    ("body_limit", "no deadline at all", LIMITED.replace("timeout_at(end)", "timeout(None)")),
    ("body_limit", "the limit is refused", LIMITED.replace("seen > most", "seen >= most")),
    ("gguf_rows", "over the whole matrix", "import torch\n    return torch.stack(weight.chunk(2), 1).reshape(weight.shape)"),
    ("gguf_rows", "reshaped only", "return weight.reshape(-1, head_size // 2, 2, weight.shape[1]).reshape(weight.shape)"),
    ("gguf_rows", "float32", "w = weight.float().view(-1, 2, head_size // 2, weight.shape[1])\n"
     "    return w.transpose(1, 2).reshape(weight.shape)"),
]  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name: str):
    assert_passes(name, RIGHT[name])


@pytest.mark.parametrize("name", sorted({name for name, _, _ in WRONG}))
def test_wrong_answers_fail(name: str):
    for other, what, body in WRONG:
        if other == name:
            assert_fails(name, what, body)
