"""Stage 9: what clients see when something fails in the engine, and what one client cannot see of another."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import torch
from structlog.testing import capture_logs
from support.serving import ENDLESS, Served, events_of, serve, tiny_models

from deployment.gate.api_keys import hash_key, new_key
from deployment.main_command import describe_cache
from deployment.settings import Limits
from optimization.engine.engine import Engine

BODY = {"prompt": "the", "max_tokens": 5, "temperature": 0, "logit_bias": ENDLESS}
LIMITS = Limits(request_seconds=20)


@pytest.fixture(autouse=True)
def _log_kept_in_memory() -> Iterator[None]:
    """As it is without the server's configuration, the log writes tracebacks with all variables, for many seconds."""
    with capture_logs():
        yield


def fail_once(owner: object, name: str, error: BaseException, when: Callable[[], bool] = lambda: True) -> None:
    original = getattr(owner, name)

    def broken(*args, **kwargs):
        if when():
            setattr(owner, name, original)
            raise error
        return original(*args, **kwargs)

    setattr(owner, name, broken)


def engine_of(served: Served) -> Engine:
    return served.state.models["tiny"].engine


SEAMS: dict[str, Callable[[Served], tuple[object, str]]] = {
    "plan": lambda s: (engine_of(s)._scheduler, "plan"),
    "retire": lambda s: (engine_of(s)._scheduler, "retire"),
    "allocate": lambda s: (engine_of(s).pool, "allocate"),
    "run": lambda s: (engine_of(s)._runner, "run"),
    "tokenizer": lambda s: (s.state.models["tiny"].tokenizer, "decode_bytes"),
    "encoder": lambda s: (s.state.models["tiny"].tokenizer, "encode"),
    "relay": lambda s: (s.state.desk.relay, "post"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
@pytest.mark.parametrize("seam", SEAMS)
def test_a_request_fails_at_once_and_the_next_one_is_served(seam, kind, stream):
    if seam in ("encoder", "relay", "tokenizer") and kind is SystemExit:
        pytest.skip("this seam is not the engine's thread alone")
    with serve(tiny_models(), limits=LIMITS) as served:
        before = served.client.post("/generate", json=BODY).json()["generated_text"]
        # The engine may still be in the step that ended the request before.
        unfinished = lambda: any(not r.finished for r in engine_of(served)._scheduler.requests)  # noqa: E731
        fail_once(*SEAMS[seam](served), kind("boom"), unfinished if seam in ("plan", "retire") else lambda: True)
        started = time.monotonic()
        answer = served.client.post("/generate", json={**BODY, "stream": stream})
        assert time.monotonic() - started < 5
        if stream and answer.status_code == 200:
            name, data = events_of(answer)[-1]
            assert name == "error"
            assert json.loads(data)["error"]["type"] == "server_error"
        else:
            assert answer.status_code == 500
            assert answer.json()["error"]["type"] == "server_error"
        assert served.client.post("/generate", json=BODY).json()["generated_text"] == before
        assert served.client.get("/ready").status_code == 200
        served.wait_until_idle()


def test_an_engine_that_always_fails_is_not_ready_until_it_works_again():
    with serve(tiny_models(), limits=LIMITS) as served:
        scheduler = engine_of(served)._scheduler
        plan = scheduler.plan

        def broken() -> None:
            raise RuntimeError("boom")

        scheduler.plan = broken  # type: ignore[method-assign]
        started = time.monotonic()
        assert [served.client.post("/generate", json=BODY).status_code for _ in range(4)] == [500] * 4
        assert time.monotonic() - started < 5
        answer = served.client.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "failing"})
        assert served.client.get("/health").status_code == 200
        scheduler.plan = plan  # type: ignore[method-assign]
        assert served.client.post("/generate", json=BODY).status_code == 200
        assert served.client.get("/ready").json() == {"status": "ready"}


def test_an_event_that_cannot_be_counted_reaches_its_client_and_the_others():
    with serve(tiny_models(), limits=LIMITS) as served:
        fail_once(served.state.metrics, "finished", RuntimeError("no disk"))
        answers = [served.client.post("/generate", json=BODY) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        served.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_deadline_holds_although_the_engine_does_not_answer(stream):
    with serve(tiny_models(), limits=Limits(request_seconds=0.3)) as served:
        engine, go_on = engine_of(served), threading.Event()
        run = engine._runner.run

        def stuck(scheduled):
            go_on.wait(10)
            return run(scheduled)

        engine._runner.run = stuck  # type: ignore[method-assign]
        started = time.monotonic()
        answer = served.client.post("/generate", json={**BODY, "stream": stream})
        assert time.monotonic() - started < 5
        if stream:
            name, data = events_of(answer)[-1]
            assert name == "error" and json.loads(data)["error"]["type"] == "timeout_error"
        else:
            assert answer.status_code == 504
        go_on.set()
        served.wait_until_idle()


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_predicts_no_numbers_is_answered_with_an_error_in_json(bad):
    models = tiny_models()
    with torch.no_grad():
        for parameter in models["tiny"].engine.model.parameters():  # matrices are shared with the compiled loops
            parameter.fill_(bad)
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    with serve(models, limits=LIMITS) as served:
        for path, body in (
            ("/generate", {**BODY, "top_logprobs": 3}),
            ("/generate", {**BODY, "temperature": 1.0}),
            ("/v1/completions", {**BODY, "logprobs": 2, "echo": True}),
            ("/v1/completions", {**BODY, "logprobs": 2, "n": 3, "temperature": 1.0}),
            ("/v1/chat/completions", chat),
            ("/attention", {"tokens": [1, 2, 3]}),
        ):
            answer = served.client.post(path, json=body)
            assert answer.status_code == 500, (path, answer.text)
            assert set(strict(answer.text)) == {"error"}
            if path == "/attention":
                continue
            name, data = events_of(served.client.post(path, json={**body, "stream": True}))[-1]
            assert (name, set(strict(data))) == ("error", {"error"})
        assert served.client.get("/ready").status_code == 200  # the engine works; the model does not
        served.wait_until_idle()


def test_one_of_eight_fails_and_the_others_get_what_they_get_alone(monkeypatch):
    from optimization.engine import engine as engine_module

    body = {**BODY, "max_tokens": 40}
    with serve(tiny_models(), limits=LIMITS) as served:
        alone = served.client.post("/generate", json=body).json()["generated_text"]
        apply, victim = engine_module.apply_logits, []

        def breaks_one(item, logits, config):
            if len(item.request.generated) == 10 and not victim:
                victim.append(item.request)
                raise RuntimeError("in the middle")
            return apply(item, logits, config)

        monkeypatch.setattr(engine_module, "apply_logits", breaks_one)
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(served.url + "/generate", json=body, trust_env=False, timeout=30))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [500]
        texts = {answer.json()["generated_text"] for answer in answers if answer.status_code == 200}
        assert texts == {alone}
        served.wait_until_idle()


# --- one key and another ------------------------------------------------------------------------


def test_one_client_learns_nothing_of_the_prompts_of_another():
    keys = {"alice": new_key(), "bob": new_key()}
    settings = {"api_keys": {name: hash_key(key) for name, key in keys.items()}}
    with serve(tiny_models(block_size=1), **settings) as served:

        def cached(name: str, path: str, **body) -> int:
            headers = {"Authorization": f"Bearer {keys[name]}"}
            answer = served.client.post(path, json={"max_tokens": 1, **body}, headers=headers)
            assert answer.status_code == 200, answer.text
            if path == "/generate":
                return json.loads(dict(events_of(answer))["end"])["cached_tokens"]
            return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        secret = {"prompt": "my code: 7319"}
        assert cached("alice", "/v1/completions", **secret) == 0
        assert cached("bob", "/v1/completions", **secret) == 0
        for path, body in (
            ("/v1/completions", {"prompt": "a code: 7319", "n": 2}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "my word: swordfish"}]}),
            ("/generate", {"prompt": "my street: Elm", "stream": True}),
        ):
            for name in ("alice", "bob"):  # at most the beginning that their own earlier prompts have too
                assert cached(name, path, **body) <= 4
            for name in ("alice", "bob"):
                assert cached(name, path, **body) > 10


def test_without_keys_all_share_a_beginning():
    with serve(tiny_models(block_size=1)) as served:
        body = {"prompt": "the same system prompt", "max_tokens": 1}
        served.client.post("/v1/completions", json=body)
        usage = served.client.post("/v1/completions", json=body).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 5


# --- extreme parameters -------------------------------------------------------------------------


def test_extreme_parameters_are_answered_as_greedily_as_they_are_or_refused():
    with serve(tiny_models(), limits=LIMITS) as served:

        def ask(**body) -> httpx.Response:
            return served.client.post("/generate", json={**BODY, "temperature": 1.0, "top_p": 1.0, **body})

        greedy = ask(temperature=0).json()["generated_text"]
        for cold in ({"temperature": t} for t in (1e-6, 1e-30, 1e-39, 1e-300, 5e-324)):
            assert ask(**cold).json()["generated_text"] == greedy, cold
        for narrow in ({"top_p": 5e-324}, {"top_p": 1e-45}, {"top_k": 1}, {"min_p": 1.0}):
            assert ask(**narrow).json()["generated_text"] == greedy, narrow
        for penalty in (5e-324, 1e-300, 1e-39, 100.0):
            answer = ask(repetition_penalty=penalty, top_logprobs=1)
            assert answer.status_code == 200
            strict(answer.text)
        for wrong in ({"temperature": 1e308}, {"top_p": 0}, {"repetition_penalty": 0}, {"logit_bias": {"1": 100.1}}):
            assert ask(**wrong).status_code == 400, wrong


def test_a_traceback_in_the_console_has_no_variables():
    script = (
        "import structlog; from deployment.structured_logging import configure_logging\n"
        "configure_logging('console')\n"
        "def answer(secret): raise RuntimeError('boom')\n"
        "try: answer('the ' + 'pr' + 'ompt')\n"
        "except RuntimeError as error: structlog.get_logger().error('unexpected error', exc_info=error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "in answer" in done.stderr and "RuntimeError: boom" in done.stderr
    assert "the prompt" not in done.stderr


def test_the_size_of_the_cache_is_said():
    engine = tiny_models()["tiny"].engine
    assert describe_cache(engine) == f"cache for {16 * 128:,} tokens, at most 0.00 GiB"
    small = tiny_models(cache_tokens=64)["tiny"].engine
    assert describe_cache(small).endswith("longer texts, up to the context of 128, are refused")
