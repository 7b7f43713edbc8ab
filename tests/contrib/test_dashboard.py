"""The dashboard, the alert rules and the table of the guide use the names that there are, and all of them."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import aether_sync
from aether_sync.contrib.prometheus._families import FAMILIES, Family

PAGE = Path(aether_sync.__file__).parent / "guide" / "prometheus.md"
DASHBOARD: dict[str, Any] = json.loads((files("aether_sync.contrib.prometheus") / "dashboard.json").read_text())

#: Of each name that a query may use, whose it is.
NAMES: dict[str, Family] = {}
for _family in FAMILIES:
    _endings = ("_bucket", "_sum", "_count") if _family.kind == "histogram" else ("",)
    NAMES |= {_family.name + ending: _family for ending in _endings}

#: What Prometheus itself puts on every series, and the label of ranges.
COMMON = {"job", "instance", "le"}
FUNCTIONS = {"sum", "max", "rate", "increase", "histogram_quantile", "topk", "min_over_time", "label_values"}


def faults(query: str) -> list[str]:
    """What is wrong with a query, as far as that can be said without Prometheus."""
    found = []
    for one, other in "()", "[]", "{}":
        if query.count(one) != query.count(other):
            found.append(f"{one}{other} are not pairs")
    bare = re.sub(r'"[^"]*"', '""', query)
    used = [NAMES[name] for name in re.findall(r"\baether_sync_\w+", bare) if name in NAMES]
    found += [f"there is no {name}" for name in re.findall(r"\baether_sync_\w+", bare) if name not in NAMES]
    labels = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", bare) for label in group.split(",")}
    labels |= set(re.findall(r'(\w+)(?:=|!=|=~|!~)""', bare))
    known = COMMON.union(*(family.labels for family in used))
    found += [f"there is no label {label}" for label in labels - known]
    found += [f"there is no {name}()" for name in re.findall(r"\b(\w+)\(", bare) if name not in FUNCTIONS]
    for family in used:
        over_time = re.search(rf"(rate|increase)\({family.name}(_\w+)?({{[^}}]*}})?\[", bare) is not None
        if over_time != (family.kind != "gauge") and "min_over_time" not in bare:
            found.append(f"{family.name} is a {family.kind}")
    if "histogram_quantile" in bare and ("_bucket" not in bare or "le" not in labels):
        found.append("a quantile wants _bucket, and le")
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def rules() -> list[str]:
    """The expressions of the alert rules; YAML joins the lines behind ``>-`` with spaces."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    found = re.findall(r"^ {8}expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text, re.M)
    assert len(found) == text.count("- alert:") == text.count("annotations:") == text.count("summary:")
    return [" ".join(folded.split()) or plain for folded, plain in found]


@pytest.mark.parametrize("query", queries() + rules())
def test_a_query_uses_what_there_is(query: str) -> None:
    assert faults(query) == []


def test_the_variables_use_what_there_is() -> None:
    for one in DASHBOARD["templating"]["list"]:
        if one["type"] == "query":
            assert faults(one["definition"].replace("label_values(", "label_values((", 1).replace(",", "),", 1)) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(aether_sync_bus_pending)", "there is no aether_sync_bus_pending"),
        ("sum by (actor) (aether_sync_bus_pending_events)", "there is no label actor"),
        ('aether_sync_bus_pending_events{stream="x"}', "there is no label stream"),
        ("rate(aether_sync_bus_pending_events[5m])", "aether_sync_bus_pending_events is a gauge"),
        ("sum(aether_sync_bus_received_total)", "aether_sync_bus_received_total is a counter"),
        ("avrage(aether_sync_bus_pending_events)", "there is no avrage()"),
        ("sum(aether_sync_bus_pending_events", "() are not pairs"),
    ],
)
def test_a_fault_is_found(query: str, fault: str) -> None:
    assert fault in faults(query)


def test_the_dashboard_shows_every_family() -> None:
    text = " ".join(queries())
    assert [one.name for one in FAMILIES if not re.search(rf"\b{one.name}(_bucket|_count)?\b", text)] == []


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)), "two panels lie on each other"
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = {one.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for one in by.split(",")}
            assert labels <= grouped
    assert DASHBOARD["uid"] == "aether-sync"


def test_the_dashboard_is_printed() -> None:
    command = [sys.executable, "-m", "aether_sync.contrib.prometheus"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == DASHBOARD


def test_the_guide_lists_every_family() -> None:
    rows = re.findall(r"^\| `(aether_sync_\w+_)` \| (.*) \| (.*) \|$", PAGE.read_text(), re.M)
    listed = [
        (head + name, (*re.findall(r"`(\w+)`", labels), *re.findall(r"`(\w+)`", own)))
        for head, labels, names in rows
        for name, own in re.findall(r"`(\w+)`((?: \(`\w+`\))?)", names)
    ]
    assert listed == [(one.name, one.labels) for one in FAMILIES]


def test_the_guide_says_what_are_histograms() -> None:
    said = "`call_seconds`, `handler_seconds` and `relay_seconds` are histograms"
    assert said in PAGE.read_text()
    names = [one.name.partition("_seconds")[0].rpartition("_")[2] for one in FAMILIES if one.kind == "histogram"]
    found = list(dict.fromkeys(names))
    assert [f"`{one}_seconds`" for one in found] == re.findall("`[^`]*`", said)
