"""Every command of the lessons and guides runs, page by page and in order, in a miniature of the repository."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from support.lesson_pages import PAGES, ROOT, blocks_of, commands_of
from support.miniature import build_miniature, run_program, write_workspace
from support.serving import serve, tiny_models

pytestmark = pytest.mark.slow

# The commands that cannot run in a test, and why. Every other command in a block must run.
NOT_RUN = {
    r"(NULLM_RUN=\S+ )?docker ": "needs a Docker daemon",
    r"(vllm|trtexec|ollama) ": "needs the program and, for some, a GPU",
    r"(python -m )?pip install|python3 (-m venv|install.py)": "installs; `make setup` does it, in CI as well",
    r".* hub:": "reads the Hugging Face hub",
    r".*import_weights.py smollm2": "downloads 93 MB; tests/06_finetuning/test_published_models.py does it",
    r"curl http://192": "another machine's address",
    r"python -m pytest": "runs these tests",
    r"(export|echo) ": "the shell's own",
}
# Folders of the reader that a page assumes to exist.
STAND_INS = {
    "checkpoints/a": "checkpoints/small_gpt",
    "checkpoints/b": "checkpoints/small_gpt",
    "checkpoints/clerk": "checkpoints/poet",
    "checkpoints/large": "checkpoints/small_gpt",
    "checkpoints/mine": "checkpoints/base",
    "checkpoints/small": "checkpoints/small_gpt",
    "openai-community/gpt2": "path/to/model",
    "path/to/hf_model": "path/to/model",
}
# Flags for commands that have no preset for the amount of work.
SHORTER = {
    "01_neural_networks/train_mlp.py": ["--steps", "60", "--hidden", "32"],
    "01_neural_networks/train_ngram.py": ["--max-order", "3"],
    "04_tokenizer/train_tokenizer.py": ["--vocab-size", "400"],
    "06_finetuning/finetune.py": ["--training.max_steps", "4", "--schedule.warmup_steps", "1"],
    "07_optimization/benchmark.py": ["--max-tokens", "4"],
    "07_optimization/generate.py": ["--max-tokens", "6"],
    "08_evaluation/scaling.py": ["--corpus", "CONTRIBUTING.md"],
    "09_deployment/api/main.py": ["--port", "0"],
}
LIMITS = {"--training.max_steps": 6, "--steps": 60, "--context_length": 256, "--context-length": 256, "--tokens": 2048}


WITH_COMMANDS = [page for page in PAGES if any(commands_of(page))]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature with the models that the lessons need: a base, a chat model, an adapter of it, published weights."""
    folder = build_miniature(tmp_path_factory.mktemp("miniature"))
    write_workspace(folder, ("1.1", "3.1", "4.1", "5.1", "5.6", "6.1"))
    for line in (
        "05_training/train.py --config configs/small_gpt.yaml",
        "06_finetuning/finetune.py --config configs/sft.yaml",
        "06_finetuning/finetune.py --config configs/sft.yaml --output_dir checkpoints/base",
        "06_finetuning/finetune.py --config configs/lora.yaml --base checkpoints/base --output_dir checkpoints/poet",
        "09_deployment/export.py --checkpoint checkpoints/base --to hf --output path/to/model",
    ):
        must_run(shortened(["python", *line.split()]), folder)
    return folder


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run(page: Path, trained: Path, tmp_path: Path):
    folder = shutil.copytree(trained, tmp_path / "nuLLM")
    for block in blocks_of(page, "yaml"):
        (folder / "server.yaml").write_text(yaml.safe_dump({**yaml.safe_load(block), "threads": 1}), encoding="utf-8")
    for line, shown in commands_of(page):
        if any(re.match(pattern, line) for pattern in NOT_RUN):
            continue
        words = shlex.split(line, comments=True)
        variables = {}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "curl":
            fetch(words)
        elif words[0] in ("python", "learn", "torchrun"):
            prepare(words, folder)
            start = launch if words[0] == "torchrun" else must_run
            start(shortened(words), folder, shown.startswith("error:"), **variables)
        else:
            pytest.fail(f"{page.name} has {line!r}: run it here, or say in NOT_RUN why not")


def must_run(words: list[str], folder: Path, refused: bool = False, **variables: str) -> None:
    """Run a program to its end. If the page shows an error, there must be one."""
    status, printed = run_program(words, folder, variables)
    assert (status != 0) == refused and "Traceback" not in printed, f"{shlex.join(words)}: {status}\n{printed}"
    assert not refused or "error: " in printed


def prepare(words: list[str], folder: Path) -> None:
    """Make the files that the command reads, and remove results that it would find finished."""
    for word in words:
        for name, stand_in in STAND_INS.items():
            if word.split("=")[-1].removesuffix("/adapter") == name and not (folder / name).exists():
                shutil.copytree(folder / stand_in, folder / name)
    options = dict(itertools.pairwise(words))
    written = options.get("--output_dir", options.get("--output") if "import_weights" in words[1] else None)
    if written is None and "--config" in options:
        written = yaml.safe_load((folder / options["--config"]).read_text("utf-8")).get("output_dir")
    if written and options.get("--base") != written:
        shutil.rmtree(folder / written, ignore_errors=True)


def shortened(words: list[str]) -> list[str]:
    """The same command with less work; the scripts are the repository's own."""
    script = next((word for word in words if word in SHORTER), "")
    words = [*words, *SHORTER.get(script, [])]
    for flag, value in itertools.pairwise(words):
        if flag in LIMITS:
            words[words.index(flag) + 1] = str(min(int(value), LIMITS[flag]))
    if words[1].endswith("export.py") and "--checkpoint" not in words:
        words += ["--checkpoint", "checkpoints/small_gpt"]
    words = [str(ROOT / word) if word.endswith(".py") else word for word in words]
    return words if words[0] == "learn" else words[1:]


launched: set[tuple[str, ...]] = set()


def launch(words: list[str], folder: Path, refused: bool, **variables: str) -> None:
    """Run torchrun with two processes in total, on one machine or on two that are both this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    nodes = 2 if "--nnodes=2" in words else 1
    words = [re.sub(r"--nproc_per_node=\d+", f"--nproc_per_node={2 // nodes}", word) for word in words]
    words = [word.replace("node0:29500", endpoint) for word in words]
    # The launched processes do not use the small documentation.
    words = ["-m", "torch.distributed.run", *words, "--data.corpus", "README.md"]
    # A command on several pages is launched only once, because each process imports PyTorch again.
    if tuple(words) in launched:
        return
    launched.add(tuple(words))
    with ThreadPoolExecutor(nodes) as pool:
        list(pool.map(lambda _: must_run(words, folder, refused, **variables), range(nodes)))


def fetch(words: list[str]) -> None:
    """Run curl against a running server."""
    if shutil.which("curl"):
        with serve(tiny_models()) as server:
            words = [word.replace("http://127.0.0.1:8000", server.url) for word in words]
            subprocess.run([*words, "--fail", "--silent", "--noproxy", "*"], check=True, capture_output=True)
