"""Every pod of the chart is run safely, says what it needs and gets what nightmill reads."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.settings import Settings
from tests.infra.helm import chart
from tests.infra.helm.chart import Object

LONG_RUNNING = {"worker", "scheduler"}
PODS = [
    pytest.param(name, pod, id=f"{values}-{name}")
    for values in chart.NAMES
    for name, pod in chart.pods(chart.golden(values))
]
CONTAINERS = [
    pytest.param(container, id=f"{param.id}-{container['name']}")
    for param in PODS
    for container in chart.containers(param.values[1])
]


def all_containers() -> Iterator[Object]:
    yield from (param.values[0] for param in CONTAINERS)


def test_all_pods_are_looked_at() -> None:
    names = {param.values[0].split("/")[0] for param in PODS}
    assert names == {"Deployment", "Job", "Pod"}
    assert {container["name"] for container in all_containers()} >= {
        *LONG_RUNNING,
        "models",
        "migrate",
        "doctor",
        "pool-default",
    }


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_pods_have_no_rights(name: str, pod: Object) -> None:
    spec = pod["spec"]
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 10001, 10001)
    assert security["fsGroup"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] != "default"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_pods_get_no_variables_of_services(name: str, pod: Object) -> None:
    """NIGHTMILL_SCHEDULER_PORT of the Service would look like a misspelt setting."""
    assert pod["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_have_no_rights_and_know_their_limits(container: Object) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert re.fullmatch(r"[\w./:-]+(@sha256:[0-9a-f]{64}|:[\w.-]+)", container["image"])
    assert not container["image"].endswith(":latest")
    assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_every_mount_has_its_volume(name: str, pod: Object) -> None:
    volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
    mounted = {mount["name"] for one in chart.containers(pod) for mount in one["volumeMounts"]}
    assert len(volumes) == len(set(volumes))
    assert mounted == set(volumes)


@pytest.mark.parametrize("container", CONTAINERS)
def test_secrets_come_from_secrets_only(container: Object) -> None:
    found = chart.environment(container)
    assert len(found) == len(container["env"])
    for name in ("NIGHTMILL_DATABASE_URL", "NIGHTMILL_BROKER_URL"):
        # The one that fetches models needs no server; embedded services must never start.
        assert found.get(name, "").startswith("secret/") is (container["name"] != "models")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        assert found.get(name, "secret/").startswith("secret/")
    assert not re.search(r"(postgresql|rediss?)://", str(container))


@pytest.mark.parametrize("name", chart.NAMES)
def test_the_chart_makes_no_secrets(name: str) -> None:
    assert chart.of_kind(chart.golden(name), "Secret") == {}


def test_variables_are_settings() -> None:
    known = {f"NIGHTMILL_{name.upper()}" for name in Settings.model_fields}
    used = {name for container in all_containers() for name in chart.environment(container)}
    assert {name for name in used if name.startswith("NIGHTMILL_")} - known == set()
    assert {"NIGHTMILL_POOL", "NIGHTMILL_DEVICE", "NIGHTMILL_SHUTDOWN_GRACE_S"} <= used


def test_values_of_variables_are_right() -> None:
    """As nightmill reads them; a whole number is not written as 1.37e+11."""
    worker = chart.of_kind(chart.golden("gpu-keda"), "Deployment")["farm-nightmill-worker-default"]
    found = chart.environment(worker["spec"]["template"]["spec"]["containers"][0])
    assert found["NIGHTMILL_MANIFEST_LIMIT"] == "137438953472"
    fields: dict[str, Any] = {
        name.removeprefix("NIGHTMILL_").lower(): value
        for name, value in found.items()
        if name.startswith("NIGHTMILL_") and not value.startswith("secret/")
    }
    settings = Settings(**fields)
    assert (settings.lease_s, settings.shutdown_grace_s, settings.device) == (60, 60, "cuda")


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_what_runs_for_long_is_probed_and_has_time_to_stop(name: str, pod: Object) -> None:
    for container in pod["spec"]["containers"]:
        found = chart.environment(container)
        is_long = container["name"] in LONG_RUNNING
        assert ("NIGHTMILL_METRICS_ADDRESS" in found) is is_long
        for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
            assert (f"{probe}Probe" in container) is is_long
            if is_long:
                asked = container[f"{probe}Probe"]["httpGet"]
                assert (asked["path"].removesuffix("/busy"), asked["port"]) == (path, "metrics")
        if is_long:
            assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]
            grace = int(found["NIGHTMILL_SHUTDOWN_GRACE_S"])
            assert pod["spec"]["terminationGracePeriodSeconds"] == grace + 10


@pytest.mark.parametrize("name", chart.NAMES)
def test_of_scaled_pods_the_idle_ones_are_not_ready(name: str) -> None:
    text = chart.golden(name)
    scaled = {
        found["spec"]["scaleTargetRef"]["name"] for found in chart.of_kind(text, "ScaledObject").values()
    }
    for deployment, found in chart.of_kind(text, "Deployment").items():
        (container,) = found["spec"]["template"]["spec"]["containers"]
        path = container["readinessProbe"]["httpGet"]["path"]
        assert path == ("/readyz/busy" if deployment in scaled else "/readyz")


@pytest.mark.parametrize("name", chart.NAMES)
def test_objects_are_labelled_and_in_the_namespace(name: str) -> None:
    for found in chart.objects(chart.golden(name)):
        labels = found["metadata"]["labels"]
        assert found["metadata"]["namespace"] == "night"
        assert {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of")} <= set(
            labels
        )
        assert len(found["metadata"]["name"]) <= 63


@pytest.mark.parametrize("name", chart.NAMES)
def test_selectors_find_their_own_pods_and_no_others(name: str) -> None:
    text = chart.golden(name)
    labels = {owner: pod["metadata"]["labels"] for owner, pod in chart.pods(text)}
    for found in chart.objects(text):
        if found["kind"] == "Deployment":
            wanted = found["spec"]["selector"]["matchLabels"].items()
            matches = [owner for owner, has in labels.items() if wanted <= has.items()]
            assert matches == [f"Deployment/{found['metadata']['name']}"]
        if found["kind"] in ("PodDisruptionBudget", "Service"):
            selector = found["spec"]["selector"]
            wanted = selector.get("matchLabels", selector).items()
            matches = [owner for owner, has in labels.items() if wanted <= has.items()]
            assert matches == [f"Deployment/{found['metadata']['name']}"]
        if found["kind"] == "NetworkPolicy" and "hook" not in str(found["metadata"].get("annotations")):
            wanted = found["spec"]["podSelector"]["matchLabels"].items()
            assert all(wanted <= has.items() for has in labels.values())
