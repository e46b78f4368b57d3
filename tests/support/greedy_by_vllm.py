"""Greedy tokens of an exported model, by vLLM. It runs in a Python that has vLLM and not this project.

JSON comes on the standard input: the folders `model` and `adapter`, `texts` to encode, `prompts` of ids, how many `tokens` to
generate, and a `context` for all. JSON goes into the file `result`: the ids of the texts, and without and with the adapter,
for each prompt, the generated ids and the log-probabilities of the 20 most likely tokens at each step.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Generate, and write the result."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    job = json.load(sys.stdin)
    llm = LLM(
        job["model"], dtype="float32", enforce_eager=True, max_model_len=job["context"], enable_lora=True, max_num_seqs=4,
        enable_prefix_caching=False,
    )  # fmt: skip
    tokenizer = llm.get_tokenizer()
    greedy = SamplingParams(temperature=0.0, max_tokens=job["tokens"], logprobs=20, ignore_eos=True)
    runs = []
    for lora in (None, LoRARequest("adapter", 1, job["adapter"])):
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], greedy, lora_request=lora)
        found = [output.outputs[0] for output in outputs]
        steps = [[{index: entry.logprob for index, entry in step.items()} for step in f.logprobs] for f in found]
        runs.append({"tokens": [list(f.token_ids) for f in found], "logprobs": steps})
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in job["texts"]]
    Path(job["result"]).write_text(json.dumps({"texts": texts, "runs": runs}))


if __name__ == "__main__":
    main()
