"""The Helm chart renders objects that Kubernetes accepts, and refuses values that cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

CHART = Path(__file__).parent.parent.parent / "deploy" / "helm" / "flowbed"
LEAST: dict[str, Any] = {"store": "s3://bucket/index", "secret": "flowbed"}
EVERYTHING: dict[str, Any] = {
    **LEAST,
    "image": {"tag": "1", "pullSecrets": [{"name": "registry"}]},
    "environment": {"AWS_REGION": "eu-central-1", "ODD": 'a "quoted": value'},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/flowbed"}},
    "server": {"autoscaling": {"maxReplicas": 5}, "nodeSelector": {"disk": "ssd"}},
    "worker": {
        "options": ["--queues", "embed"],
        "keda": {"enabled": True, "prometheus": "http://prometheus:9090"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    },
}
# KEDA's own kind is no part of Kubernetes, so the validator does not know it.
FOREIGN = {"ScaledObject"}
SEVERE = 2  # of Helm's lint: 1 informs, 2 warns, 3 is an error


def objects(check: Callable[..., Any], values: dict[str, Any]) -> list[dict[str, Any]]:
    found = check("chart", str(CHART), json.dumps(values))
    assert found["error"] == ""
    assert [message for message in found["messages"] if message["severity"] >= SEVERE] == []
    return [
        each
        for name, text in found["rendered"].items()
        if name.endswith(".yaml")
        for each in yaml.safe_load_all(text)
        if each
    ]


@pytest.mark.parametrize("values", [LEAST, EVERYTHING], ids=["least", "everything"])
def test_chart_objects_pass_the_strict_schemas_of_kubernetes(
    check: Callable[..., Any], tool: Callable[..., Any], tmp_path: Path, values: dict[str, Any]
) -> None:
    known = [each for each in objects(check, values) if each["kind"] not in FOREIGN]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    done = tool("kubernetes-validate", "--strict", "--quiet", str(tmp_path / "all.yaml"))
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    known[0]["metadata"]["anotations"] = {}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    assert tool("kubernetes-validate", "--strict", "--quiet", str(tmp_path / "all.yaml")).returncode != 0


def test_chart_pods_run_without_privileges_on_a_read_only_file_system(check: Callable[..., Any]) -> None:
    pods = [
        each["spec"]["template"]["spec"]
        for each in objects(check, EVERYTHING)
        if each["kind"] in {"Deployment", "Job"}
    ]
    assert len(pods) == len(["server", "worker", "migrate"])
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["envFrom"] == [{"secretRef": {"name": "flowbed"}}]


def test_chart_with_scaling_leaves_the_number_of_pods_to_the_scalers(check: Callable[..., Any]) -> None:
    fixed = {each["metadata"]["name"]: each for each in objects(check, LEAST) if each["kind"] == "Deployment"}
    scaled = [each for each in objects(check, EVERYTHING) if each["kind"] == "Deployment"]
    assert all("replicas" in each["spec"] for each in fixed.values())
    assert all("replicas" not in each["spec"] for each in scaled)


def test_chart_project_that_changes_starts_the_pods_again(check: Callable[..., Any]) -> None:
    def sums(values: dict[str, Any]) -> set[str]:
        return {
            each["spec"]["template"]["metadata"]["annotations"]["flowbed/project"]
            for each in objects(check, values)
            if each["kind"] == "Deployment"
        }

    assert len(sums(LEAST)) == 1
    assert sums(LEAST) != sums({**LEAST, "project": 'model = "openai:text-embedding-3-small"\n'})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"store": "", "secret": "s"}, "store"),
        ({"store": "/a/folder", "secret": "s"}, "store"),
        ({"store": "s3://b/i", "secret": ""}, "secret"),
        ({**LEAST, "wroker": {}}, "wroker"),
        ({**LEAST, "worker": {"keda": {"enabled": True}}}, "prometheus"),
    ],
)
def test_chart_values_that_cannot_work_are_refused_by_name(
    check: Callable[..., Any], values: dict[str, Any], named: str
) -> None:
    assert named in check("chart", str(CHART), json.dumps(values))["error"]


def test_chart_network_policies_admit_named_peers_only(
    check: Callable[..., Any],
) -> None:
    peers = [{"podSelector": {"matchLabels": {"role": "frontend"}}}]
    found = {
        each["metadata"]["name"]: each["spec"]
        for each in objects(check, {**LEAST, "networkPolicy": {"enabled": True, "from": peers}})
        if each["kind"] == "NetworkPolicy"
    }
    server, others = sorted(found.values(), key=lambda each: "ingress" not in each)
    assert server["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "server"
    assert server["ingress"] == [{"from": peers, "ports": [{"port": "http", "protocol": "TCP"}]}]
    assert "ingress" not in others
    assert others["podSelector"]["matchExpressions"] == [
        {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["server"]}
    ]
    assert {tuple(each["policyTypes"]) for each in found.values()} == {("Ingress",)}
    off = objects(check, {**LEAST, "networkPolicy": {"enabled": False}})
    assert "NetworkPolicy" not in {each["kind"] for each in off}
