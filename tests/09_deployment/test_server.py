"""Stage 9: the server as a program: it starts, generates, cancels, stops, and gives information about itself."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from support.serving import (
    CONTEXT,
    ENDLESS,
    JSON,
    Served,
    events_of,
    iterate_events,
    save_run,
    serve,
    serve_command,
    tiny_models,
)

from attention.attention_visualizer import record_attention, stack_layers
from deployment.attention_look import AttentionLook
from deployment.main_command import main
from deployment.new_key_command import main as new_key
from finetuning.adapters.lora import LoRAConfig, add_lora
from finetuning.adapters.peft_format import save_adapter
from optimization.engine.engine import Engine
from training.checkpoints.checkpoint import load_model
from transformer.sampling import SamplingParameters


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models()) as server:
        yield server


@pytest.mark.slow
def test_the_command_serves_a_checkpoint_logs_json_and_ends_with_status_0(run_folder: Path, root: Path):
    with serve_command(root, "--checkpoint", str(run_folder), "--device", "cpu") as (url, process):
        body = {"prompt": "the secret", "max_tokens": 20, "temperature": 0.9, "seed": 11}
        answer = httpx.post(url + "/generate", json=body, trust_env=False, headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        with httpx.stream("POST", url + "/generate", json={**body, "stream": True}, trust_env=False) as response:
            process.send_signal(signal.SIGTERM)
            assert events_of(response)[-1][0] == "end"  # a running request may finish
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    engine = Engine.from_checkpoint(run_folder, "cpu")
    assert answer.json()["generated_text"] == "".join(
        engine.generate("the secret", SamplingParameters(max_tokens=20, temperature=0.9, seed=11))
    )
    lines = [json.loads(line) for line in err.splitlines()]
    (request,) = [line for line in lines if line.get("request_id") == "mine-1"]
    assert (request["path"], request["status"], request["model"]) == ("/generate", 200, "tiny")
    assert "secret" not in err + out


@pytest.mark.slow
def test_a_killed_server_starts_again_on_its_port(run_folder: Path, root: Path):
    with serve_command(root, "--checkpoint", str(run_folder)) as (url, process):
        port = url.rsplit(":", 1)[1]
        with httpx.stream(
            "POST", url + "/generate", json={"prompt": "a", "max_tokens": 4000, "stream": True}, trust_env=False
        ) as response:
            lines = response.iter_lines()
            next(lines)
            process.kill()
            with contextlib.suppress(httpx.HTTPError):
                list(lines)
    with serve_command(root, "--checkpoint", str(run_folder), "--port", port) as (again, _):
        assert again == url
        assert httpx.get(url + "/ready", trust_env=False).json() == {"status": "ready"}


def test_streams_are_cut_at_the_end_of_draining_and_told_so():
    with serve(tiny_models(), drain_seconds=0.2) as server:
        body = {"prompt": "a", "max_tokens": 4096, "stream": True, "logit_bias": ENDLESS}
        with server.client.stream("POST", "/generate", json=body) as response:
            events = iterate_events(response)
            assert next(events)[0] == "start"
            server.state.desk.draining = True
            with httpx.Client(base_url=server.url, trust_env=False) as other:
                assert other.get("/ready").status_code == 503
                assert other.get("/health").status_code == 200
                refused = other.post("/generate", json={"prompt": "a"})
            assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
            server.state.desk.relay._loop.call_soon_threadsafe(server.state.desk.cancel_all)
            name, data = list(events)[-1]
        assert name == "error" and json.loads(data)["error"]["message"] == "the server is stopping"
        server.wait_until_idle()


def test_generate_reports_what_the_model_thought(served: Served):
    body = {"prompt": "the", "max_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 5, "top_logprobs": 4}
    answer = served.client.post("/generate", json=body).json()
    assert "".join(token["text"] for token in answer["tokens"]) in answer["generated_text"]
    model = served.state.model(None)
    ids = model.encode_prompt("the")
    with torch.no_grad():
        rows = model.engine.model(torch.tensor([ids + [t["id"] for t in answer["tokens"]]]))[0].log_softmax(dim=-1)
    for row, token in zip(rows[len(ids) - 1 :], answer["tokens"], strict=False):
        assert token["logprob"] == pytest.approx(row[token["id"]].item(), abs=1e-4)
        assert token["entropy"] == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-4)
        assert [alternative["id"] for alternative in token["top"]] == row.topk(4).indices.tolist()


def test_the_stream_of_generate_holds_the_same_tokens(served: Served):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "seed": 5, "top_logprobs": 2}
    whole = served.client.post("/generate", json=body).json()
    with served.client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        events = [(name, json.loads(data)) for name, data in events_of(response)]
    assert [name for name, _ in events] == ["start", *["token"] * 12, "end"]
    assert [token["id"] for _, token in events[1:-1]] == [token["id"] for token in whole["tokens"]]
    prompt_ids, end = events[0][1]["prompt_ids"], events[-1][1]
    assert end["prompt_tokens"] == len(prompt_ids) == whole["prompt_tokens"]
    assert "".join(e["text"] for _, e in events[1:]) == whole["generated_text"]
    # Branching: the ids so far are the prompt, and the text continues as before.
    longer = {"prompt": [*prompt_ids, *(t["id"] for t in whole["tokens"])], "max_tokens": 3, "temperature": 0}
    assert served.client.post("/generate", json=longer).json()["prompt_tokens"] == len(prompt_ids) + 12


def test_the_text_may_outgrow_the_context_and_says_so(served: Served):
    body = {"prompt": "a", "max_tokens": CONTEXT + 20, "seed": 1, "logit_bias": ENDLESS}
    answer = served.client.post("/generate", json=body).json()
    assert (answer["generated_tokens"], answer["context_shifts"]) == (CONTEXT + 20, 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_blocks_at_once(served: Served, stream: bool):
    """Another client's request at the same time runs as if it were alone."""
    alone = served.client.post("/generate", json={"prompt": "and", "max_tokens": 60, "temperature": 0}).json()
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "the", "max_tokens": 4000, "stream": stream, "logit_bias": ENDLESS}).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        while served.num_live == 0:
            time.sleep(0.002)
    together = served.client.post("/generate", json={"prompt": "and", "max_tokens": 60, "temperature": 0}).json()
    served.wait_until_idle()
    assert together == alone


@pytest.mark.slow
def test_parallel_requests_get_what_they_would_get_alone(served: Served):
    bodies = [{"prompt": "the " * (i % 3), "max_tokens": 30, "seed": i} for i in range(24)]
    alone = [served.client.post("/generate", json=body).json()["generated_text"] for body in bodies]
    together: dict[int, str] = {}

    def ask(index: int) -> None:
        together[index] = served.client.post("/generate", json=bodies[index]).json()["generated_text"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(len(bodies))] == alone
    served.wait_until_idle()


def test_health_answers_while_text_is_generated(served: Served):
    body = {"prompt": "a", "max_tokens": 300, "stream": True, "logit_bias": ENDLESS}
    with served.client.stream("POST", "/generate", json=body) as response:
        events = iterate_events(response)
        next(events)
        with httpx.Client(base_url=served.url, trust_env=False) as other:
            assert other.get("/health").json() == {"status": "ok"}
        assert served.num_live == 1
        assert list(events)[-1][0] == "end"


def test_a_deadline_ends_a_request_with_504_or_an_error_event():
    from deployment.settings import Limits

    with serve(tiny_models(), limits=Limits(request_seconds=0.15)) as server:
        body = {"prompt": "a", "max_tokens": 4000, "logit_bias": ENDLESS}
        answer = server.client.post("/generate", json=body)
        assert answer.status_code == 504
        assert "took longer than 0.15 seconds" in answer.json()["error"]["message"]
        with server.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            events = events_of(response)
        assert events[-1][0] == "error" and "took longer" in events[-1][1]
        server.wait_until_idle()


def test_attention_is_the_plain_models(served: Served):
    ids = [267, 5, 261, 97]
    answer = served.client.post("/attention", json={"tokens": ids}).json()
    weights = torch.tensor(answer["weights"])
    assert weights.shape == (2, 4, 4)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4), atol=1e-3)
    assert torch.allclose(weights, served.state.model(None).attention(ids), atol=1e-4)
    assert answer["tokens"][0] == served.state.model(None).token_text(267)


def test_looks_at_one_text_after_the_other_give_what_a_whole_pass_gives(served: Served, monkeypatch):
    monkeypatch.setattr("deployment.attention_look.CHUNK", 7)
    model = served.state.model(None)
    text = torch.randint(250, (CONTEXT,), generator=torch.manual_seed(1)).tolist()
    other = [*text[:20], 3, *text[21:60]]  # differs in the middle
    for tokens in (text[:50], text[:51], text[:30], other, text[:1], text):
        with torch.inference_mode(), record_attention(model.engine.model) as recorded:
            model.engine.model.hidden_states(torch.tensor([tokens]))
        torch.testing.assert_close(model.attention(tokens), stack_layers(recorded)[:, :, -1], rtol=1e-4, atol=1e-5)
        assert not any(getattr(module, "observer", None) for module in model.engine.model.modules())


def test_a_look_computes_only_what_the_last_one_of_the_same_client_has_not_read(served: Served):
    model = served.state.model(None)
    look, passes = AttentionLook(model.engine.model, torch.float32), []
    forward = look._pass
    look._pass = lambda tokens, store: (passes.append(len(tokens)), forward(tokens, store))
    for tokens, reader in ((60, "a"), (61, "a"), (61, "b"), (40, "b")):
        look.weights([5] * tokens, reader)
    assert passes == [59, 1, 1, 1, 60, 1, 1]


def test_of_a_long_text_the_largest_weights_are_sent_with_their_places(served: Served, monkeypatch):
    monkeypatch.setattr("deployment.routes.model_routes.MAX_WEIGHTS", 8 * 20)
    ids = torch.randint(250, (100,), generator=torch.manual_seed(2)).tolist()
    whole = served.state.model(None).attention(ids)
    answer = served.client.post("/attention", json={"tokens": ids}).json()
    sent, places, left_out = (torch.tensor(answer[name]) for name in ("weights", "places", "left_out"))
    assert sent.shape == places.shape == (2, 4, 20) and left_out.shape == (2, 4)
    assert torch.allclose(whole.gather(-1, places), sent, atol=1e-4)
    assert torch.allclose(sent, whole.topk(20).values, atol=1e-4)
    assert torch.allclose(sent.sum(-1) + left_out, torch.ones(2, 4), atol=2e-3) and left_out.max() > 0.01
    assert torch.allclose(torch.tensor(answer["mean"]), whole.mean(dim=(0, 1)), atol=1e-4)


def test_a_look_is_charged_as_a_prompt():
    with serve(tiny_models(), rate_limits={"tokens_per_minute": 50}) as served:
        statuses = [served.client.post("/attention", json={"tokens": [1] * 30}).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_attention_is_bounded(served: Served):
    too_long = served.client.post("/attention", json={"tokens": [1] * (CONTEXT + 1)})
    assert too_long.status_code == 400 and "129 tokens is more than this server's limit of 128" in too_long.text
    assert served.client.post("/attention", json={"tokens": [9999]}).status_code == 400
    assert served.client.post("/attention", json={"tokens": []}).status_code == 400


def test_text_becomes_ids_and_comes_back(served: Served):
    text = "the sänd <|end|>"
    tokenizer = served.state.model(None).tokenizer
    answer = served.client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    assert answer["tokens"] == tokenizer.encode(text)
    assert answer["token_strs"][0] == "the" and "bytes:\\xc3" in answer["token_strs"]
    assert answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == CONTEXT
    assert served.client.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}
    assert served.client.post("/tokenize", json={"prompt": text}).json()["tokens"][0] == tokenizer.end_of_text_id
    assert served.client.post("/detokenize", json={"tokens": [9999]}).status_code == 400


def test_metrics_have_vllms_names_and_count():
    with serve(tiny_models()) as server:
        for _ in range(3):
            body = {"prompt": "the", "max_tokens": 5, "logit_bias": ENDLESS}
            server.client.post("/v1/completions", json=body)
        server.client.post("/v1/completions", json={"prompt": "the", "max_tokens": 0})
        text = server.client.get("/metrics").text
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                values[sample.name] = values.get(sample.name, 0) + sample.value
    for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert values[gauge] == 0
    assert values["vllm:generation_tokens_total"] == 16
    assert values["vllm:prompt_tokens_total"] == 8
    assert values["vllm:request_success_total"] == 4
    assert values["vllm:time_to_first_token_seconds_count"] == values["vllm:e2e_request_latency_seconds_count"] == 4
    assert values["vllm:inter_token_latency_seconds_count"] == 12
    assert values["vllm:request_queue_time_seconds_count"] == 4
    assert math.isfinite(values["vllm:e2e_request_latency_seconds_sum"])


@pytest.mark.slow
def test_adapters_are_served_under_their_own_names(run_folder: Path, root: Path, tmp_path: Path):
    loaded = load_model(run_folder)
    add_lora(loaded.model, LoRAConfig(rank=2))
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.3)
    save_adapter(loaded.model, tmp_path / "poet")
    arguments = ["--checkpoint", str(run_folder), "--adapter", f"poet={tmp_path / 'poet'}"]
    with serve_command(root, *arguments) as (url, _):
        models = httpx.get(url + "/v1/models", trust_env=False).json()["data"]
        body = {"prompt": "the", "max_tokens": 20, "temperature": 0}
        texts = [
            httpx.post(url + "/generate", json={**body, "model": name}, trust_env=False).json()["generated_text"]
            for name in ("tiny", "poet")
        ]
    assert [(model["id"], model["parent"]) for model in models] == [("tiny", None), ("poet", "tiny")]
    engine = Engine(loaded.model, loaded.tokenizer, Engine.from_checkpoint(run_folder, "cpu").placement)
    expected = "".join(engine.generate("the", SamplingParameters(max_tokens=20, temperature=0.0, top_p=1.0)))
    assert texts[1] == expected != texts[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such"], "there is no folder no/such"),
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--host", "0.0.0.0"], "can be reached from other machines and no API key is set"),
        (["--config", "no/such.yaml"], "there is no settings file no/such.yaml"),
        (["--adapter", "poet"], "--adapter needs NAME=FOLDER"),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments: list[str], message: str, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_port_in_use_is_named(served: Served, run_folder: Path, capsys):
    port = served.url.rsplit(":", 1)[1]
    assert main(["--checkpoint", str(run_folder), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_example_settings_are_valid_and_name_every_field(root: Path):
    import yaml

    from deployment.settings import Limits, RateLimits, ServerSettings, load_settings

    path = root / "configs" / "server.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert load_settings(path, {}).limits == Limits()
    assert written.keys() == ServerSettings.model_fields.keys()
    assert written["limits"].keys() == Limits.model_fields.keys()
    assert written["rate_limits"].keys() == RateLimits.model_fields.keys()


def test_the_openapi_page_documents_the_routes(served: Served):
    assert served.client.get("/docs").status_code == 200
    paths = served.client.get("/openapi.json").json()["paths"].keys()
    assert {"/generate", "/health", "/v1/completions", "/v1/chat/completions", "/tokenize", "/metrics"} <= paths


def test_a_new_key_opens_the_server_whose_settings_hold_its_hash(capsys):
    assert new_key(["alice"]) == 0
    key, line = [text.split(": ", 1)[1].strip() for text in capsys.readouterr().out.splitlines()]
    name, hashed = line.split(": ")
    with serve(tiny_models(), api_keys={name: hashed}) as server:
        assert server.client.get("/v1/models").status_code == 401
        assert server.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert new_key(["no name"]) == 1


def test_the_key_script_runs(root: Path):
    command = [sys.executable, str(root / "09_deployment" / "new_key.py"), "bob"]
    assert "bob: sha256:" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_body_without_its_type_is_explained(served: Served):
    answer = served.client.post("/generate", content=b'{"prompt": "a"}')
    assert answer.status_code == 400 and "Content-Type: application/json" in answer.text
    assert served.client.post("/generate", content=b'{"prompt": "a"}', headers=JSON).status_code == 200
