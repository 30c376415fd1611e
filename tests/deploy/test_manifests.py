"""What `deploy/` has for Kubernetes, Nomad and Fly: it names what there is, and Hermes takes what it is given there."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes.config.environment import OTHER_NAMES
from hermes.config.load import resolve
from hermes.config.schema import settings, variable
from tests.fakes.backend import ollama
from tests.fakes.gateway import hermes, scenario

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HELM = os.environ.get("HELM") or shutil.which("helm")
FILES = [ROOT / "Dockerfile", ROOT / "compose.yaml", *(path for path in DEPLOY.rglob("*") if path.is_file())]
KNOWN = {*OTHER_NAMES, *(variable(path) for path, _ in settings())}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_variable_that_is_set_is_one_of_hermes(file: Path) -> None:
    named = re.findall(r"\bHERMES_[A-Z_]+\b", file.read_text())
    assert {name.removesuffix("_FILE") if name not in KNOWN else name for name in named} <= KNOWN


def test_fly_builds_the_dockerfile() -> None:
    said = tomllib.loads((DEPLOY / "fly/fly.toml").read_text())
    assert (DEPLOY / "fly" / said["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    config = resolve(None, said["env"], {}, ROOT).config
    assert config.server.port == said["http_service"]["internal_port"]


@scenario
async def test_the_sidecars_probe_sees_whether_it_lives() -> None:
    pod = yaml.safe_load((DEPLOY / "kubernetes/sidecar.yaml").read_text())["spec"]["template"]["spec"]
    sidecar = pod["initContainers"][0]
    assert sidecar["livenessProbe"]["exec"] == sidecar["startupProbe"]["exec"]
    python, *rest = sidecar["livenessProbe"]["exec"]["command"]
    assert python == "python"
    async with ollama() as backend, hermes(backend) as gateway:
        for port, code in ((gateway.port, 0), (1, 1)):
            command = [sys.executable, *(word.replace("4000", str(port)) for word in rest)]
            ended = await asyncio.to_thread(subprocess.run, command, capture_output=True)
            assert ended.returncode == code


# --- Helm -------------------------------------------------------------------------------------------------------------

CHART = DEPLOY / "helm/hermes"
needs_helm = pytest.mark.skipif(HELM is None, reason="no helm here")
ALL = ("autoscaling.enabled=true", "podDisruptionBudget.enabled=true", "serviceMonitor.enabled=true")


def helm(*said: str) -> subprocess.CompletedProcess[str]:
    sets = [word for each in said for word in ("--set", each)]
    command = [str(HELM), "template", "x", str(CHART), "--namespace", "llm", "--kube-version", "1.30", *sets]
    return subprocess.run(command, capture_output=True, text=True)


def rendered(*said: str) -> dict[str, Any]:
    done = helm(*said)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


@needs_helm
def test_the_chart_has_nothing_to_be_complained_of() -> None:
    lint = [str(HELM), "lint", str(CHART), "--strict", "--set", "keys.secret=k"]
    assert subprocess.run(lint, capture_output=True).returncode == 0


@needs_helm
def test_what_the_chart_gives_it_is_what_hermes_takes(tmp_path: Path) -> None:
    """I24: with a key; I22: by the Service's names."""
    parts = rendered("keys.secret=k", *ALL)
    assert set(parts) == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServiceMonitor"
    }  # fmt: skip
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environ = {each["name"]: each["value"] for each in container["env"]}
    (tmp_path / "keys.json").write_text(json.dumps({"sk-1": {"user": "ann"}}))
    environ["API_KEYS_JSON_FILE"] = str(tmp_path / "keys.json")
    (tmp_path / "hermes.yaml").write_text(parts["ConfigMap"]["data"]["hermes.yaml"])
    config = resolve(str(tmp_path / "hermes.yaml"), environ, {}, tmp_path).config
    assert config.keys and "x-hermes.llm.svc" in config.server.allowed_hosts
    assert config.server.drain_grace_s + config.server.drain_timeout_s < pod["terminationGracePeriodSeconds"]
    assert container["ports"][0]["containerPort"] == config.server.port
    assert {probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")} == {
        "/livez",
        "/readyz",
    }
    assert parts["ServiceMonitor"]["spec"]["selector"] == parts["PodDisruptionBudget"]["spec"]["selector"]


@needs_helm
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((), "it wants keys"),
        (("keys.insecure=true", "persistence.enabled=true", "replicas=2"), "one Hermes has its state at a time"),
    ],
)
def test_what_cannot_work_is_told_before_it_is_installed(said: tuple[str, ...], words: str) -> None:
    assert words in helm(*said).stderr


@needs_helm
def test_state_is_on_a_volume_where_that_is_asked_for() -> None:
    parts = rendered("keys.insecure=true", "persistence.enabled=true")
    assert parts["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    claim = parts["PersistentVolumeClaim"]["metadata"]["name"]
    volumes = parts["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": claim}} in volumes
