"""Stage 9: container, dashboard and proxy files, as far as they can be checked without a Docker daemon."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from support.serving import serve, tiny_models

from deployment.settings import ServerSettings


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "09_deployment" / "docker"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """The instruction and the arguments of each step. Continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_the_image_is_small_pinned_and_without_rights(folder: Path, root: Path):
    """What hadolint checks: pinned bases, no root, no cache left, nothing fetched by ADD, a health check."""
    steps = instructions((folder / "Dockerfile").read_text(encoding="utf-8"))
    names = [name for name, _ in steps]
    bases = [arguments for name, arguments in steps if name == "FROM"]
    assert len(bases) == 2 and all("-slim-bookworm" in base for base in bases)
    final = steps[[i for i, name in enumerate(names) if name == "FROM"][-1] :]
    assert [arguments for name, arguments in final if name == "USER"] == ["10001"]
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= {name for name, _ in final}
    assert "ADD" not in names and not any("apt-get" in arguments for _, arguments in steps)
    assert all(arguments.startswith("[") for name, arguments in steps if name == "ENTRYPOINT")  # gets signals itself
    assert any("PIP_NO_CACHE_DIR=1" in arguments for name, arguments in steps if name == "ENV")
    for name, arguments in steps:
        if name == "COPY" and "--from" not in arguments and "." not in arguments.split():
            assert all((root / source).exists() for source in arguments.split()[:-1])
    assert (root / "09_deployment/api/main.py").exists()


def test_the_variables_of_the_image_are_settings(folder: Path):
    text = (folder / "Dockerfile").read_text(encoding="utf-8") + (folder / "compose.yaml").read_text(encoding="utf-8")
    for name in set(re.findall(r"NULLM_([A-Z_]+)(?:=|:\s)", text)):
        assert name.lower() in ServerSettings.model_fields, name


def test_the_health_check_of_the_image_works(folder: Path):
    steps = dict(instructions((folder / "Dockerfile").read_text(encoding="utf-8")))
    command = json.loads(steps["HEALTHCHECK"].split("CMD ", 1)[1])
    with serve(tiny_models()) as server:
        port = server.url.rsplit(":", 1)[1]
        environment = {"NULLM_PORT": port, "no_proxy": "*"}
        assert subprocess.run([sys.executable, *command[1:]], env=environment, check=False).returncode == 0
    dead = subprocess.run([sys.executable, *command[1:]], env=environment, check=False, capture_output=True)
    assert dead.returncode != 0


def test_compose_files_are_whole_and_public_ports_stay_on_this_machine(folder: Path):
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"server", "prometheus", "grafana"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "image" in service and not service["image"].endswith(":latest")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source == "../../checkpoints" or (folder / source).exists(), source
    server = services["server"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"]
    grace = int(server["stop_grace_period"].removesuffix("s"))
    assert grace > ServerSettings.model_fields["drain_seconds"].default
    cuda = yaml.safe_load((folder / "compose.cuda.yaml").read_text(encoding="utf-8"))
    assert cuda["services"]["server"]["image"] == "nullm:cuda"


def test_the_builder_gets_every_package_of_the_server(folder: Path, root: Path):
    lines = (folder / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = [path.split("/")[0] for path in packages if path != "exercises/learn"]  # learning is not served
    assert len(folders) == 10
    assert [line[1:] for line in lines if line.startswith("!") and "." not in line and line != "!LICENSE"] == folders


def test_every_query_of_the_dashboard_names_a_metric_that_there_is(folder: Path):
    dashboard = json.loads((folder / "grafana/dashboards/nullm.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    with serve(tiny_models()) as server:
        server.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3})
        text = server.client.get("/metrics").text
    known = set(re.findall(r"^([a-z0-9_:]+)[{ ]", text, flags=re.M))
    used = {name for query in queries for name in re.findall(r"(?:vllm:|nullm_)[a-z0-9_]+", query)}
    assert used <= known, used - known


def test_the_proxy_streams_and_waits_longer_than_the_server(folder: Path):
    text = (folder / "nginx.conf").read_text(encoding="utf-8")
    assert text.count("{") == text.count("}")
    assert "proxy_buffering off;" in text
    timeout = int(re.search(r"proxy_read_timeout (\d+)s", text).group(1))
    assert timeout > ServerSettings.model_fields["limits"].default_factory().request_seconds
