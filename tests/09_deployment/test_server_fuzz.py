"""Stage 9: random requests from the OpenAPI schema, valid or not. The server answers all, and never with 5xx."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
from support.serving import Served, serve, tiny_models

from deployment.settings import Limits

pytestmark = pytest.mark.slow

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis (the extra dev)")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models(), limits=Limits(max_tokens=4, max_n=2, request_seconds=20)) as server:
        yield server


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_breaks_the_server(served: Served, mode: str):
    """Requests that follow the schema, and requests that do not."""
    generation_mode = schemathesis.GenerationMode(mode)
    schema = schemathesis.openapi.from_url(served.url + "/openapi.json")
    examples = int(os.environ.get("FUZZ_EXAMPLES", "20"))
    paths = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode == "negative" and not operation.body:
            continue
        paths.add(operation.path)

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=generation_mode))
        def ask(case) -> None:
            response = case.call()
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"].keys() == {"message", "type", "param", "code"}

        ask()
    assert len(paths) >= (6 if mode == "negative" else 12)
    served.wait_until_idle()
