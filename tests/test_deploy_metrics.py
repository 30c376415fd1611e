"""Dashboard, alerts, rules and autoscalers ask for what there is, by every name, label and value in their PromQL."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from hermes.errors import GatewayError, Outcome
from hermes.principal import CLASS_NAMES
from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, bearer, chat, hermes, key
from tests.support import run

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "hermes.json"
AUTOSCALING = DEPLOY / "autoscaling"

# Every series has these from Prometheus, which also tells itself whether it could scrape.
SCRAPED = ("job", "instance")
UP = {"up": SCRAPED}
KEYWORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

Known = Mapping[str, tuple[str, ...]]
"""Labels, by the name of a series."""


# --- what is asked for ------------------------------------------------------------------------------------------------


class Query(Struct, frozen=True):
    """`where` tells whoever reads the failure."""

    where: str
    text: str

    @property
    def bare(self) -> str:
        """Without what stands in quotes and in brackets."""
        return re.sub(r"\[[^]]*\]", "", re.sub(r'"[^"]*"', '""', self.text))

    def selectors(self) -> Iterator[tuple[str, str]]:
        """A name, and what stands in its braces."""
        yield from re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", self.text)

    def names(self) -> set[str]:
        plain = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}", " ", self.bare)
        return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", plain)) - KEYWORDS

    def groups(self) -> set[str]:
        lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", self.bare)
        return {label.strip() for each in lists for label in each.split(",")}


def rules(path: Path) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(path.read_text())["groups"]:
        yield from group["rules"]


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def queries() -> Iterator[Query]:
    for path in (RULES, ALERTS):
        for rule in rules(path):
            yield Query(rule.get("record") or rule["alert"], rule["expr"])
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"])
    for annotation in board["annotations"]["list"]:
        yield Query(annotation["name"], annotation["expr"])
    for trigger in yaml.safe_load((AUTOSCALING / "keda.yaml").read_text())["spec"]["triggers"]:
        yield Query("keda", trigger["metadata"]["query"])


def asked_by_variables() -> Iterator[tuple[str, str]]:
    """The metric and label that a variable of the dashboard has its values from."""
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            [found] = re.findall(r"label_values\(([\w:]+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
            yield found


every_query = pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.where)


# --- what there is ----------------------------------------------------------------------------------------------------


async def _scrape() -> dict[str, tuple[str, ...]]:
    """Of a Hermes that has served something: its names as they are told, their labels as they are declared."""
    async with ollama() as backend, hermes(backend, keys=[key("ann", admin=True)]) as gateway:
        await gateway.ask(CHAT, chat(stream=True), bearer("ann"))
        text = (await gateway.ask("/metrics", headers=bearer("ann"))).body.decode()
        labels = {family.name: family.labels for family in gateway.runtime.metrics.families()}
    found = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES[family.type]:
            le = ("le",) if suffix == "_bucket" else ()
            found[family.name + suffix] = (*labels.get(family.name, ()), *le, *SCRAPED)
    return found


@pytest.fixture(scope="module")
def known() -> Known:
    told = run(_scrape()) | UP
    for rule in rules(RULES):
        told[rule["record"]] = tuple(Query("", rule["expr"]).groups())
    return told


# --- they fit ---------------------------------------------------------------------------------------------------------


def test_there_is_something_to_check() -> None:
    assert len(list(queries())) > 60


@every_query
def test_every_name_and_label_in_a_query_is_known(query: Query, known: Known) -> None:
    assert query.names() and query.names() <= known.keys()
    for name, braces in query.selectors():
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', braces))) <= set(known[name])
    assert query.groups() <= {label for name in query.names() for label in known[name]}


@every_query
def test_every_value_in_a_query_is_one_that_there_is(query: Query) -> None:
    values = {
        "outcome": {*Outcome, "failed", "loaded"},
        "reason": {each.code for each in _errors(GatewayError)},
        "class": set(CLASS_NAMES),
        "kind": {"prompt", "completion"},
        "covered": {"yes", "no"},
        "result": {"refused", "failed", "ok"},
    }
    for label, said in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"$]+)"', query.text):
        assert label in SCRAPED or label.startswith("model") or set(said.split("|")) <= values[label]


def _errors(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _errors(each)


@every_query
def test_rates_are_of_what_only_grows_and_quantiles_of_buckets(query: Query) -> None:
    for name in re.findall(r"\b(?:rate|increase)\((\w+)", query.text):
        assert name.endswith(("_total", "_bucket", "_sum", "_count"))
    for grouped in re.findall(r"histogram_quantile\([\d.]+, sum by \(([^)]*)\) \(rate\(\w+_bucket", query.text):
        assert "le" in grouped.split(", ")
    assert query.text.count("histogram_quantile(") == query.text.count("_bucket")


def test_the_variables_of_the_dashboard_are_labels_that_there_are(known: Known) -> None:
    assert all(label in known[name] for name, label in asked_by_variables())


def test_every_panel_can_be_imported_anywhere() -> None:
    """The data source is a variable, ids are of one panel each, and no two lie on each other."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        for asked in (panel, *panel.get("targets", ())):
            assert panel["type"] == "row" or asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)


def test_what_the_alerts_say_are_labels_that_they_have(known: Known) -> None:
    for rule in rules(ALERTS):
        query = Query(rule["alert"], rule["expr"])
        said = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        aggregated = re.search(r"\b(?:sum|max) by", query.text)
        has = query.groups() if aggregated else {label for name in query.names() for label in known[name]}
        assert said <= has and rule["labels"]["severity"] in ("page", "ticket")


def test_the_adapter_tells_what_the_autoscaler_follows(known: Known) -> None:
    [told] = yaml.safe_load((AUTOSCALING / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    [series] = re.findall(r'__name__="([^"]+)"', told["seriesQuery"])
    [metric] = yaml.safe_load((AUTOSCALING / "hpa.yaml").read_text())["spec"]["metrics"]
    asked = metric["external"]["metric"]
    assert asked["name"] == told["name"]["as"]
    assert asked["selector"]["matchLabels"].keys() <= set(known[series])


# --- Prometheus says so too -------------------------------------------------------------------------------------------

PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    promtool("check", "rules", str(RULES), str(ALERTS))
    listed = [
        {"record": f"q{number}", "expr": query.text.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": listed}]}))
    promtool("check", "rules", str(file))


@with_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", str(Path(__file__).parent / "alerts.yaml"))
