"""What the admin port tells, read by the parser of Prometheus' own Python client, and the alerts that ask for it."""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from conftest import Demo
from story import ROOT

NAME = re.compile(r"holmes(_[a-z]+)+")
RULES = ROOT / "deploy/prometheus/holmes.rules.yaml"


@pytest.fixture(scope="module")
def families(demo: Demo) -> dict[str, Any]:
    """What the demo's server tells after its story and one more call, by family."""
    message = {"role": "user", "content": "Sort these numbers: 41, 7, 93, 18"}
    assert demo.client().chat.completions.create(model="holmes-tiny", messages=[message]).choices
    with urllib.request.urlopen(f"{demo.places['admin']}/metrics", timeout=10) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    parsed = list(text_string_to_metric_families(text))
    assert len({family.name for family in parsed}) == len(parsed), "a family stands in two places"
    return {family.name: family for family in parsed}


def test_every_family_has_its_words_type_and_base_unit(families: dict[str, Any]) -> None:
    assert len(families) > 30
    for family in families.values():
        assert NAME.fullmatch(family.name), family.name
        assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
        assert family.documentation.endswith("."), family.name
        assert family.samples, family.name
        assert not re.search(r"_(ms|us|ns|millis|minutes|kib|mib)(_|$)", family.name), family.name
        if family.type == "counter":  # the parser takes the end of the name away
            assert all(sample.name == f"{family.name}_total" for sample in family.samples), family.name
        else:
            assert not family.name.endswith("_total"), family.name
        labels = {frozenset(set(sample.labels) - {"le"}) for sample in family.samples}
        assert len(labels) == 1, f"{family.name} has other labels here than there: {labels}"


def by_labels(family: Any, end: str) -> Iterator[tuple[tuple[tuple[str, str], ...], float, float]]:
    for sample in family.samples:
        if sample.name == family.name + end:
            rest = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
            yield rest, float(sample.labels.get("le", "nan")), sample.value


def test_histograms_add_up(families: dict[str, Any]) -> None:
    histograms = [family for family in families.values() if family.type == "histogram"]
    assert len(histograms) >= 8
    for family in histograms:
        buckets = defaultdict(list)
        for labels, bound, value in by_labels(family, "_bucket"):
            buckets[labels].append((bound, value))
        counts = {labels: value for labels, _, value in by_labels(family, "_count")}
        sums = {labels: value for labels, _, value in by_labels(family, "_sum")}
        assert counts.keys() == buckets.keys() == sums.keys(), family.name
        for labels, pairs in buckets.items():
            bounds, values = [bound for bound, _ in pairs], [value for _, value in pairs]
            assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), (family.name, labels)
            assert values == sorted(values) and values[-1] == counts[labels], (family.name, labels)
            assert sums[labels] >= 0 and (sums[labels] > 0) <= (counts[labels] > 0), (family.name, labels)


def test_no_label_names_an_account_a_node_or_a_call(families: dict[str, Any], demo: Demo) -> None:
    values = {value for family in families.values() for sample in family.samples for value in sample.labels.values()}
    assert {"holmes-tiny", "ledger", "chat/completions"} <= values
    for value in values:
        assert len(value) <= 96 and not re.search(r"[0-9a-f]{16}|[0-9a-z]{26}|hk_", value), value
    assert len(values) < 400, "labels are bounded"


def test_the_story_is_in_the_numbers(families: dict[str, Any]) -> None:
    def total(name: str, **labels: str) -> float:
        samples = families[name].samples
        return sum(float(sample.value) for sample in samples if labels.items() <= sample.labels.items())

    assert total("holmes_log_serving") == len(families["holmes_log_serving"].samples) == 7
    assert total("holmes_feed_parked") == 0 and total("holmes_log_rebuilt") == 0
    assert total("holmes_gateway_reports_refused") == 0 and total("holmes_gateway_untrue_lines") == 0
    assert total("holmes_gateway_nodes") == 3
    assert total("holmes_log_head", service="ledger") > 10
    assert total("holmes_gateway_calls", protocol="http", method="chat/completions", outcome="ENDED") >= 1
    assert total("holmes_gateway_completion_tokens", model="holmes-tiny") >= 1


def test_the_alerts_have_their_words_and_ask_for_what_there_is(families: dict[str, Any]) -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert len(group["rules"]) == 7
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch(r"Holmes[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")
        asked = re.findall(r"holmes_[a-z_]+", rule["expr"])
        if any(name.startswith("holmes_relay_") for name in asked):
            continue  # the demo carries its logs nowhere; a Rust test holds these
        for name in asked:
            family = families.get(re.sub(r"_(bucket|total)$", "", name))
            assert family is not None, f"{rule['alert']} asks for {name}"
        for name, how, value in re.findall(r'(\w+)(=~?)"([^"]*)"', rule["expr"]):
            there = {sample.labels.get(name) for each in asked for sample in families[re.sub(r"_(bucket|total)$", "", each)].samples}
            for word in value.split("|") if how == "=~" else [value]:
                assert any(re.fullmatch(word, label) for label in there if label), f"{rule['alert']}: {name} is never {word}"
