"""The alert rules and the dashboard: every expression is PromQL, and its metrics and labels are ones that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PROJECT_DIR
from tests.promql import matched_labels, metric_names

FILES = PROJECT_DIR / "kubernetes" / "tritone" / "files"
ALERTS = FILES / "alerts.yaml"
ALERTS_TEST = PROJECT_DIR / "tests" / "data" / "alerts_test.yaml"
DOCUMENTATION = PROJECT_DIR / "kubernetes" / "METRICS.md"
TARGET_LABELS = {"namespace", "pod", "job"}  # which Prometheus adds

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return json.loads((FILES / "dashboard.json").read_text())["panels"]


def dashboard_expressions() -> list[str]:
    """As Prometheus gets them: with values for Grafana's variables."""
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [expression.replace("$__rate_interval", "1m") for expression in expressions]


def expressions() -> list[str]:
    return [*(rule["expr"] for rule in rules()), *dashboard_expressions()]


def documented_labels() -> dict[str, set[str]]:
    """The labels of each of the project's metrics, by its name."""
    rows = re.findall(r"^\| `(tritone_\w+)` \| \w+ \| (.*?) \|", DOCUMENTATION.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", ALERTS), ("test", "rules", ALERTS_TEST)])
def test_promtool_finds_nothing_wrong_and_every_alert_fires_when_it_should(arguments: tuple[str | Path, ...]) -> None:
    answer = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = [case for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in tests if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in tests if not case.get("exp_alerts")} == names


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_documentation_names_every_alert() -> None:
    assert re.findall(r"^\| `(Tritone\w+)` \|", DOCUMENTATION.read_text(), re.MULTILINE) == [
        rule["alert"] for rule in rules()
    ]


def test_expressions_use_documented_metrics_by_labels_that_these_have() -> None:
    documented = documented_labels()
    for expression in expressions():
        for name, labels in matched_labels(expression):
            family = re.sub(r"_bucket$", "", name)
            if family.startswith("tritone_"):
                assert labels <= documented[family] | TARGET_LABELS, expression


def test_the_dashboard_shows_every_metric_of_the_project() -> None:
    shown = {re.sub(r"_bucket$", "", name) for text in dashboard_expressions() for name in metric_names(text)}
    assert documented_labels().keys() <= shown


def test_the_dashboards_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        position = panel["gridPos"]
        columns, rows_ = (
            range(position["x"], position["x"] + position["w"]),
            range(position["y"], position["y"] + position["h"]),
        )
        cells = {(x, y) for x in columns for y in rows_}
        assert max(columns) < 24 and not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_graph_has_a_unit_and_asks_the_chosen_data_source() -> None:
    for panel in panels():
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
