"""Stage 8 inside lm-evaluation-harness: its results, ours, and those of its `hf` model on the exported checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evaluation.tasks.benchmark import Evaluator, TaskResult
from evaluation.tasks.lm_eval_adapter import NullmLM, read_settings
from evaluation.tasks.task import TASKS, load_task
from groundwork.user_errors import UserError
from tokenizer.huggingface_files import save_huggingface
from training.checkpoints.checkpoint import load_model
from training.placement import Placement
from transformer.pretrained import save_pretrained

pytestmark = pytest.mark.slow

CPU = Placement(torch.device("cpu"), torch.float32)
QUESTIONS = {
    "docs_description": [
        {"context": f"{i} items\n\n", "choices": ["Return the number", "Split it", "the list is empty", "See section"], "answer": i % 4}
        for i in range(12)
    ],
    "docs_last_word": [
        {"context": "Return the number of items in the", "continuation": " container"},
        {"context": "If the list is empty, return", "continuation": " None"},
        {"context": "Split the string at the last", "continuation": " zebra"},
    ],
    "docs_first_argument": [
        {"prompt": "Return the number of items in the", "answer": "container"},
        {"prompt": "Raise ValueError if the index is out of", "answer": "range"},
        {"prompt": "x", "answer": "never"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data for the three tasks of the documentation, and the harness's task files pointing to them."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for name, questions in QUESTIONS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
        for source in (TASKS / f"{name}.yaml", TASKS / "lm_eval" / f"{name}.yaml"):
            values = yaml.safe_load(source.read_text(encoding="utf-8"))
            if "dataset_kwargs" in values:
                values["dataset_kwargs"] = {"data_files": {"test": str(folder / f"{name}.jsonl")}}
            else:
                values["data"] = str(folder / f"{name}.jsonl")
            target = folder / ("theirs" if "dataset_kwargs" in values else "ours") / source.name
            target.parent.mkdir(exist_ok=True)
            target.write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    loaded = load_model(trained_run)
    save_pretrained(loaded.model, folder)
    save_huggingface(loaded.tokenizer, folder, loaded.model.config.context_length)
    return folder


def harness(model: NullmLM | HFLM, folder: Path) -> dict[str, dict]:
    results = simple_evaluate(
        model=model,
        tasks=list(QUESTIONS),
        task_manager=TaskManager(include_path=str(folder / "theirs"), include_defaults=False),
        bootstrap_iters=0,
    )
    return {"results": results["results"], "samples": results["samples"]}


def ours(run: Path, folder: Path, name: str, begin: bool) -> TaskResult:
    loaded = load_model(run)
    evaluator = Evaluator(loaded.model, loaded.tokenizer, CPU, begin_with_end_of_text=begin)
    return evaluator.run(load_task(folder / "ours" / f"{name}.yaml"))


@pytest.fixture(scope="module", params=[True, False], ids=["with end of text", "without"])
def three(request: pytest.FixtureRequest, trained_run: Path, folder: Path, exported: Path) -> dict:
    """Results for the same model and questions: the harness with our model, with its own, and our evaluator."""
    begin = request.param
    hf = HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=4, add_bos_token=begin)
    if begin:  # the exported tokenizer leaves the token to the caller, as GPT-2's does
        from tokenizers.processors import TemplateProcessing

        token, index = "<|endoftext|>", hf.tokenizer.eos_token_id
        hf.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, index)]
        )
        assert hf.tok_encode("a")[0] == index
    return {
        "adapter": harness(NullmLM(str(trained_run), "cpu", add_bos_token=begin), folder),
        "hf": harness(hf, folder),
        "ours": {name: ours(trained_run, folder, name, begin) for name in QUESTIONS},
    }


def test_the_harness_reports_what_our_evaluator_does(three: dict):
    results, mine = three["adapter"]["results"], three["ours"]
    choice = mine["docs_description"].metrics
    assert results["docs_description"]["acc,none"] == choice["accuracy"].estimate
    assert results["docs_description"]["acc_bytes,none"] == choice["accuracy_per_byte"].estimate
    assert results["docs_last_word"]["acc,none"] == mine["docs_last_word"].metrics["accuracy"].estimate
    assert (
        results["docs_first_argument"]["exact_match,name"]
        == mine["docs_first_argument"].metrics["exact_match"].estimate
    )
    figures = [interval.estimate for result in mine.values() for interval in result.metrics.values()]
    assert 0 < sum(figures) < len(figures)  # neither all wrong nor all right, so this compares something


def test_every_log_probability_is_that_of_the_harness_own_model(three: dict):
    for name in ("docs_description", "docs_last_word"):
        for our_sample, their_sample in zip(
            three["adapter"]["samples"][name], three["hf"]["samples"][name], strict=True
        ):
            for (p, greedy), (q, also_greedy) in zip(
                [r[0] for r in our_sample["resps"]], [r[0] for r in their_sample["resps"]], strict=True
            ):
                assert float(p) == pytest.approx(float(q), abs=2e-4)
                assert greedy == also_greedy
    sums = [sample["log_probabilities"] for sample in three["ours"]["docs_description"].samples]
    theirs = [[float(r[0][0]) for r in sample["resps"]] for sample in three["hf"]["samples"]["docs_description"]]
    torch.testing.assert_close(torch.tensor(sums), torch.tensor(theirs), atol=2e-4, rtol=0)


def test_texts_written_are_those_of_the_harness_own_model(three: dict):
    def texts(which: str) -> list[str]:
        return [sample["resps"][0][0] for sample in three[which]["samples"]["docs_first_argument"]]

    assert texts("adapter") == texts("hf")
    assert [sample["written"] for sample in three["ours"]["docs_first_argument"].samples] == texts("hf")


def test_the_log_likelihood_of_a_long_text_is_that_of_the_harness_own_model(trained_run: Path, exported: Path):
    text = "If the list is empty, return None; otherwise return its first element. " * 12  # several windows
    request = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    hf = HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=2)
    expected = hf.loglikelihood_rolling(request)[0]
    assert NullmLM(str(trained_run), "cpu").loglikelihood_rolling(request)[0] == pytest.approx(expected, rel=1e-5)


def test_generation_settings_are_read_or_refused():
    parameters, max_tokens, stop = read_settings(
        {"until": "\n", "max_gen_toks": 7, "do_sample": False, "temperature": 0.9}
    )
    assert (parameters.temperature, max_tokens, stop) == (0.0, 7, ["\n"])
    parameters, max_tokens, stop = read_settings({"temperature": 0.7, "top_p": 0.9})
    assert (parameters.temperature, parameters.top_p, max_tokens, stop) == (0.7, 0.9, 256, [])
    with pytest.raises(UserError, match="does not have: num_beams"):
        read_settings({"num_beams": 4})


def test_the_command_runs_in_a_process_of_its_own(trained_run: Path, folder: Path, tmp_path: Path, root: Path):
    command = [sys.executable, "-m", "evaluation.tasks.lm_eval_adapter", "--model", "nullm"]
    tasks = ["--tasks", "docs_last_word", "--include_path", str(folder / "theirs"), "--output_path", str(tmp_path)]
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--model_args", f"checkpoint={trained_run},add_bos_token=False", *tasks],
        cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "docs_last_word" in done.stdout and "acc" in done.stdout
    (results,) = tmp_path.rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["docs_last_word"]["acc,none"] > 0
    done = subprocess.run(
        [*command, "--model_args", "checkpoint=nowhere", *tasks],
        cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "error: there is no checkpoint at nowhere" in done.stderr
