"""Exported models compared with the originals: what each format keeps, in numbers.

The tests check these numbers. As a program, it prints the table of stage 9's lesson:

    python tests/export_conformance.py                        # with llama-cpp-python, the rows of GGUF too
    python tests/export_conformance.py --vllm PATH/bin/python # a Python that has vLLM
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from support.serving import tiny_model

from deployment.export.gguf_file import export_gguf
from deployment.export.huggingface import export_huggingface
from deployment.export.onnx_file import export_onnx, export_torchscript
from finetuning.adapters.lora import LoRAConfig, add_lora
from finetuning.adapters.peft_format import save_adapter
from finetuning.data.chat_format import TEMPLATES, Message
from groundwork.files import read_yaml
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.interface import Tokenizer
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

GPT2 = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True, "tie_embeddings": True}
LLAMA = {"num_kv_heads": 2, "rope_theta": 5000.0}
QWEN3 = {"num_kv_heads": 2, "head_dim": 32, "qk_norm": True, "qk_norm_weight": True, "tie_embeddings": True}
OWN = {"feed_forward": "relu2", "qk_norm": True, "logit_softcap": 30.0, "sliding_window": 24, "attention_sinks": 2}
SMALL_GPT = read_yaml(Path(__file__).parents[1] / "configs/small_gpt.yaml")["model"]
SMALL_GPT |= {"context_length": 128, "num_layers": 2, "d_model": 128}  # heads of 32, the least that vLLM has
FAMILIES = {"GPT-2": GPT2, "Llama": LLAMA, "Qwen3": QWEN3, "small_gpt": SMALL_GPT, "own recipe": OWN}
TEMPLATE = TEMPLATES["nullm"]
MERGES = [(116, 104), (256, 101), (32, 257), (105, 110), (97, 110), (260, 100), (32, 97)]
TEXTS = [
    "the end of the sand",
    "Ünïcode, 日本語 and 🙂!",
    "  spaces\n\nand\ttabs 123 4567",
    "",
    "it's <not> special <|end ",
]
CONVERSATION = [
    Message("system", " Be short. "),
    Message("user", "the end?"),
    Message("assistant", "and"),
    Message("user", "in"),
]


@dataclass(frozen=True)
class Agreement:
    """How an exported model compares.

    Args:
        ids: whether the tokenizer gives the same ids, for plain texts and for a conversation; None without a tokenizer.
        logits: the largest difference between a logit and the original's, in float32.
        tokens: whether 16 greedily chosen tokens are the same.
    """

    ids: bool | None
    logits: float
    tokens: bool


def tiny(family: str) -> tuple[GPTModel, BPETokenizer]:
    """A random model of a family, or a briefly trained one of a preset, and its tokenizer."""
    tokenizer = BPETokenizer(MERGES, TEMPLATE.special_tokens)
    model = tiny_model(tokenizer.vocab_size, **FAMILIES[family])
    if model.config.zero_init_residual:  # until it is trained, its blocks do nothing
        _train(model, torch.tensor([tokenizer.encode("the end of the sand and in the sand an end " * 4)]))
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mix-up
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
        if model.config.tie_embeddings:
            model.head.weight.mul_(0.7)
    return model, tokenizer


def _train(model: GPTModel, ids: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=0.02)
    for _ in range(5):
        F.cross_entropy(model(ids)[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def original(model: GPTModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the model itself."""
    with torch.no_grad():
        return model(ids)


def greedy(model: GPTModel, prompt: list[int]) -> list[int]:
    """16 tokens of the model itself."""
    return list(generate(model, prompt, SamplingParameters(16, temperature=0.0)))


def batches(model: GPTModel) -> list[torch.Tensor]:
    """Inputs of several shapes that the recorders have never seen."""
    torch.manual_seed(1)
    assert model.config.vocab_size is not None
    return [torch.randint(model.config.vocab_size, shape) for shape in ((1, 1), (3, 17), (2, 60))]


def huggingface(family: str, folder: Path) -> Agreement:
    """`AutoModelForCausalLM` and `AutoTokenizer` on the exported folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = tiny(family)
    export_huggingface(model, tokenizer, TEMPLATE, folder, family)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        difference = max(float((theirs(ids).logits - original(model, ids)).abs().max()) for ids in batches(model))
        prompt = tokenizer.encode(TEXTS[0])
        out = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None, temperature=None
        )[0].tolist()
    messages = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    same = all(their_tokenizer(text)["input_ids"] == tokenizer.encode(text, "all") for text in TEXTS)
    chat = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    same &= chat == TEMPLATE.encode(CONVERSATION, tokenizer, generation_prompt=True).ids
    same &= all(their_tokenizer.decode(tokenizer.encode(text)) == text for text in TEXTS)
    return Agreement(same, difference, out[len(prompt) :] == greedy(model, prompt))


def onnx(family: str, folder: Path) -> tuple[Agreement, Agreement]:
    """onnxruntime on the graph without a cache and on the graph with one, fed in pieces and token by token."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    model, tokenizer = tiny(family)
    plain_path, cached_path = export_onnx(model, folder)
    plain = onnxruntime.InferenceSession(plain_path, providers=["CPUExecutionProvider"])
    cached = onnxruntime.InferenceSession(cached_path, providers=["CPUExecutionProvider"])
    names = [given.name for given in cached.get_inputs()][1:]

    def run_plain(ids: np.ndarray) -> np.ndarray:
        return plain.run(["logits"], {"input_ids": ids})[0]

    def run_cached(ids: np.ndarray, past: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        logits, *present = cached.run(None, {"input_ids": ids, **dict(zip(names, past, strict=True))})
        return logits, present

    def empty(batch: int) -> list[np.ndarray]:
        shape = (batch, model.config.kv_heads, 0, model.config.head_size)
        return [np.zeros(shape, dtype=np.float32)] * len(names)

    differences = [0.0, 0.0]
    for ids in batches(model):
        expected = original(model, ids).numpy()
        differences[0] = max(differences[0], float(np.abs(run_plain(ids.numpy()) - expected).max()))
        past, rows = empty(ids.shape[0]), []
        for piece in np.split(ids.numpy(), sorted({*range(1, min(4, ids.shape[1])), ids.shape[1] // 2} - {0}), axis=1):
            logits, past = run_cached(piece, past)
            rows.append(logits)
        differences[1] = max(differences[1], float(np.abs(np.concatenate(rows, axis=1) - expected).max()))
    prompt = tokenizer.encode(TEXTS[0])
    expected_tokens = greedy(model, prompt)
    window = list(prompt)
    for _ in range(16):
        window.append(int(run_plain(np.array([window]))[0, -1].argmax()))
    logits, past = run_cached(np.array([prompt]), empty(1))
    chosen = [int(logits[0, -1].argmax())]
    while len(chosen) < 16:
        logits, past = run_cached(np.array([[chosen[-1]]]), past)
        chosen.append(int(logits[0, -1].argmax()))
    return (
        Agreement(None, differences[0], window[len(prompt) :] == expected_tokens),
        Agreement(None, differences[1], chosen == expected_tokens),
    )


def torchscript(family: str, folder: Path) -> Agreement:
    """`torch.jit.load` on the exported file."""
    model, tokenizer = tiny(family)
    loaded = torch.jit.load(export_torchscript(model, folder))
    with torch.no_grad():
        difference = max(float((loaded(ids) - original(model, ids)).abs().max()) for ids in batches(model))
        prompt = tokenizer.encode(TEXTS[0])
        window = list(prompt)
        for _ in range(16):
            window.append(int(loaded(torch.tensor([window]))[0, -1].argmax()))
    return Agreement(None, difference, window[len(prompt) :] == greedy(model, prompt))


def gguf(family: str, folder: Path, kind: str) -> Agreement:
    """llama.cpp on the exported file, through the package llama-cpp-python."""
    import llama_cpp

    model, tokenizer = tiny(family)
    path = export_gguf(model, tokenizer, TEMPLATE, folder / f"{kind}.gguf", family, kind)
    # It writes directly to the file descriptor, even if `verbose` is off.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        llama = llama_cpp.Llama(
            str(path), n_ctx=128, n_batch=128, logits_all=True, verbose=False, n_threads=1, flash_attn=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip
    same = all(
        llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text) for text in TEXTS if text
    )
    rendered = TEMPLATE.render(CONVERSATION, generation_prompt=True).encode()
    chat = TEMPLATE.encode(CONVERSATION, tokenizer, generation_prompt=True).ids
    same &= llama.tokenize(rendered, add_bos=False, special=True) == chat
    difference = 0.0
    for ids in batches(model):
        llama.reset()
        llama.eval(ids[0].tolist())
        theirs = np.array(llama.scores[: ids.shape[1]])
        difference = max(difference, float(np.abs(theirs - original(model, ids[:1])[0].numpy()).max()))
    prompt = tokenizer.encode(TEXTS[0])
    llama.reset()
    chosen = list[int]()
    for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
        chosen.append(token)
        if len(chosen) == 16:
            break
    return Agreement(same, difference, chosen == greedy(model, prompt))


def vllm(model: GPTModel, tokenizer: Tokenizer, exported: Path, python: str, prompts: list[str]) -> list[Agreement]:
    """vLLM on the exported folder, in float32: without an adapter, and with one that has random numbers.

    Args:
        model: the original.
        tokenizer: its tokenizer.
        exported: a Hugging Face folder; the adapter and the result are written beside it.
        python: a Python that has vLLM, in an environment of its own.
        prompts: texts to continue.
    """
    adapted = copy.deepcopy(model)
    add_lora(adapted, LoRAConfig(rank=8, alpha=16, pattern="blocks.*"))
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.05)
    adapter, result = save_adapter(adapted, exported.with_name("adapter")), exported.with_name("vllm.json")
    ids = [tokenizer.encode(text) for text in prompts]
    job = {"texts": TEXTS, "prompts": ids, "tokens": 16, "context": 128}
    job |= {"model": str(exported), "adapter": str(adapter), "result": str(result)}
    script = Path(__file__).parent / "support" / "greedy_by_vllm.py"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # all in one process
    subprocess.run([python, script], input=json.dumps(job), text=True, env=environment, check=True)
    found = json.loads(result.read_text(encoding="utf-8"))
    same = found["texts"] == [tokenizer.encode(text, "all") for text in TEXTS]
    agreements = []
    for ours, theirs in zip((model, adapted), found["runs"], strict=True):
        difference = 0.0
        for prompt, tokens, steps in zip(ids, theirs["tokens"], theirs["logprobs"], strict=True):
            logits = original(ours, torch.tensor([prompt + tokens]))[0, len(prompt) - 1 : -1]
            for row, step in zip(logits.log_softmax(-1), steps, strict=True):
                difference = max(difference, *(abs(float(row[int(index)]) - value) for index, value in step.items()))
        agreements.append(Agreement(same, difference, theirs["tokens"] == [greedy(ours, prompt) for prompt in ids]))
    return agreements


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Exported models compared with the originals.")
    parser.add_argument("--vllm", help="a Python that has vLLM")
    options = parser.parse_args()
    print("| format | model | ids | largest difference of a logit | 16 greedy tokens |\n|---|---|---|---:|---|")

    def row(name: str, family: str, found: Agreement) -> None:
        ids = "—" if found.ids is None else "equal" if found.ids else "different"
        print(f"| {name} | {family} | {ids} | {found.logits:.1e} | {'equal' if found.tokens else 'different'} |")

    with tempfile.TemporaryDirectory() as temporary:
        for family in FAMILIES:
            folder = Path(temporary) / family
            if family != "own recipe":
                row("hf", family, huggingface(family, folder / "hf"))
                for kind in ("f32", "f16", "q8_0") if find_spec("llama_cpp") else ():
                    row(f"gguf {kind}", family, gguf(family, folder, kind))
            if options.vllm and family == "small_gpt":
                model, tokenizer = tiny(family)
                plain, adapted = vllm(model, tokenizer, folder / "hf", options.vllm, TEXTS[:2])
                row("vllm", family, plain)
                row("vllm, with an adapter", family, adapted)
            plain, cached = onnx(family, folder / "onnx")
            row("onnx", family, plain)
            row("onnx with cache", family, cached)
            row("torchscript", family, torchscript(family, folder))


if __name__ == "__main__":
    main()
