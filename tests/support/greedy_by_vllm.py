"""Greedy tokens of an exported model, by vLLM. It runs in a Python that has vLLM and not this project.

JSON comes on the standard input: `model` and `adapter` (folders; no adapter: null), `texts` to encode, `prompts` of ids,
and how many `tokens` to generate. JSON goes into the file `result`: ids of the texts, and for each prompt the generated ids
and the log-probabilities of the 20 most likely tokens at each step.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Generate, and write the result."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    job = json.load(sys.stdin)
    lora = LoRARequest("adapter", 1, job["adapter"]) if job["adapter"] else None
    llm = LLM(
        job["model"], dtype="float32", enforce_eager=True, max_model_len=job["context"], enable_lora=lora is not None,
        max_num_seqs=4, enable_prefix_caching=False,
    )  # fmt: skip
    tokenizer = llm.get_tokenizer()
    greedy = SamplingParams(temperature=0.0, max_tokens=job["tokens"], logprobs=20, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], greedy, lora_request=lora)
    found = [output.outputs[0] for output in outputs]
    result = {
        "texts": [tokenizer.encode(text, add_special_tokens=False) for text in job["texts"]],
        "tokens": [list(output.token_ids) for output in found],
        "logprobs": [
            [{index: entry.logprob for index, entry in step.items()} for step in output.logprobs] for output in found
        ],
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
