"""What the chart makes of values: pools, scaling, hooks, network; and what it refuses, in words."""

import json
from typing import Any

import pytest

from tests.infra.helm import chart
from tests.infra.programs import run

CPU = chart.CHART.parent / "values" / "cpu-small.yaml"
POOL = {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}


def refusal(**given: Any) -> str:
    """What helm says of values that it must refuse, given over those of cpu-small."""
    options = [
        option for key, value in given.items() for option in ("--set-json", f"{key}={json.dumps(value)}")
    ]
    done = run("helm", "template", "farm", chart.CHART, "--values", CPU, *options)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scheduler": {"replica": 3}}, ["scheduler", "additional properties 'replica' not allowed"]),
        ({"pools.default.device": "gpu"}, ["/pools/default/device", "'cpu', 'cuda'"]),
        ({"pools.default.resources": {"requests": {"cpu": 1}}}, ["/pools/default", "'limits'"]),
        ({"pools.default.resources.limits": {"cpu": 2}}, ["/pools/default/resources/limits", "'memory'"]),
        ({"pools.Night": POOL}, ["invalid propertyName 'Night'"]),
        ({"pools.default.replicas": "2"}, ["/pools/default/replicas", "got string, want integer"]),
        ({"pools.default.idle": "five minutes"}, ["/pools/default/idle", "does not match pattern"]),
        (
            {"settings": {"database_url": "postgresql://me:secret@db/x"}},
            ["settings.database_url: the chart sets it itself, by database.existingSecret"],
        ),
        (
            {"pools.default.settings": {"data_dir": "/x"}},
            ["\n  pools.default.settings.data_dir: the chart sets it itself\n"],
        ),
        ({"settings": {"NIGHTMILL_LEASE_S": 3}}, ["invalid propertyName 'NIGHTMILL_LEASE_S'"]),
        ({"image.server.tag": "latest"}, ["image.server.tag: say which version"]),
        ({"image.worker.repository": "registry.example/worker:1"}, ["/image/worker/repository"]),
        ({"output.uri": "images"}, ["/output/uri", "does not match pattern"]),
        ({"extraEnv": [{"name": "X", "value": "y", "secret": "z"}]}, ["/extraEnv/0", "'secret'"]),
        ({"database.existingSecret": ""}, ["database.existingSecret: name the Secret", "starts no database"]),
        ({"broker.existingSecret": ""}, ["broker.existingSecret: name the Secret"]),
        ({"output.uri": ""}, ["output.uri: say where images go"]),
        ({"output.uri": "/output"}, ["output.existingClaim: a folder"]),
        ({"output": {"uri": "/data", "existingClaim": "images"}}, ["output.uri: /data is outside"]),
        ({"pools": None}, ["missing property 'pools'"]),
        ({"pools.default": None}, ["/pools/default", "got null, want object"]),
        (
            {"pools.m": POOL | {"device": "cuda", "gpu": {"resource": "nvidia.com/mig-1g.10gb", "count": 2}}},
            ["pools.m.gpu.count: a process sees one MIG slice only"],
        ),
        ({"pools.default.autoscaling": {"minReplicas": 9}}, ["minReplicas is above maxReplicas"]),
        ({"pools.default.verify": True}, ["pools.default.verify: there is no lock"]),
        (
            {
                "pools.default.device": "cuda",
                "pools.default.resources.limits": {"memory": "1Gi", "nvidia.com/gpu": 4},
            },
            ["pools.default.resources.limits: leave nvidia.com/gpu to gpu.count"],
        ),
    ],
    ids=str,
)
def test_wrong_values_are_refused_in_words(given: dict[str, Any], words: list[str]) -> None:
    said = refusal(**given)
    assert [word for word in words if word not in said] == []


def test_all_that_is_missing_is_said_at_once() -> None:
    done = run("helm", "template", "farm", chart.CHART)
    assert done.returncode != 0
    for value in (
        "image.server.repository",
        "image.worker.repository",
        "database.existingSecret",
        "broker.existingSecret",
        "output.uri",
        "pools",
    ):
        assert f"\n  {value}: " in done.stderr


def deployments(name: str) -> dict[str, chart.Object]:
    return chart.of_kind(chart.manifest(name), "Deployment")


def test_a_pool_is_a_deployment_with_its_gpus_and_models() -> None:
    found = deployments("gpu-mig-two-pools")
    slices, large = (found[f"farm-nightmill-worker-{pool}"]["spec"] for pool in ("slices", "large"))
    limits = [one["template"]["spec"]["containers"][0]["resources"]["limits"] for one in (slices, large)]
    assert limits[0] == {"memory": "12Gi", "nvidia.com/mig-1g.10gb": 1}
    assert limits[1] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 1}
    variables = [chart.environment(one["template"]["spec"]["containers"][0]) for one in (slices, large)]
    assert [one["NIGHTMILL_POOL"] for one in variables] == ["slices", "large"]
    # The job registers them: a worker that names others than the pool has ends.
    assert not any("NIGHTMILL_POOL_MODELS" in one for one in variables)
    assert variables[0]["NIGHTMILL_BATCH_SIZE"] == "8"
    assert "NIGHTMILL_BATCH_SIZE" not in variables[1]
    assert ("replicas" in slices, large["replicas"]) == (False, 2)


def test_pools_are_scaled_by_what_the_scheduler_says() -> None:
    text = chart.manifest("gpu-keda")
    scaled = chart.of_kind(text, "ScaledObject")["farm-nightmill-worker-default"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in chart.of_kind(text, "Deployment")
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 8)
    trigger = scaled["triggers"][0]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"] == {
        "url": "http://farm-nightmill-scheduler.night.svc:9464/scale/default",
        "valueLocation": "wanted",
        "targetValue": "2",  # a pod has two GPUs, and so two workers
    }
    service = chart.of_kind(text, "Service")["farm-nightmill-scheduler"]["spec"]
    assert service["ports"][0]["port"] == 9464
    assert deployments("gpu-keda")["farm-nightmill-worker-default"]["spec"].get("replicas") is None


def test_the_tables_are_migrated_and_the_pools_registered_before() -> None:
    text = chart.manifest("gpu-mig-two-pools")
    job = chart.of_kind(text, "Job")["farm-nightmill-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    spec = job["spec"]["template"]["spec"]
    assert [one["args"] for one in spec["initContainers"]] == [["migrate"]]
    assert [one["args"] for one in spec["containers"]] == [
        [
            "pools",
            "set",
            "large",
            "--models=sd-2-1",
            "--max-workers=2",
            "--idle=5m",
            "--target=30m",
            "--start=10m",
        ],
        [
            "pools",
            "set",
            "slices",
            "--models=shapes,sd-v1-5",
            "--max-workers=7",
            "--idle=5m",
            "--target=30m",
            "--start=10m",
        ],
    ]
    keda = chart.of_kind(chart.manifest("gpu-keda"), "Job")["farm-nightmill-migrate"]
    arguments = keda["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[3:] == ["--models=all", "--max-workers=16", "--idle=10m", "--target=1h", "--start=10m"]


@pytest.mark.parametrize("name", chart.NAMES)
def test_a_hook_needs_nothing_that_comes_after_it(name: str) -> None:
    """Before a first install there are the user's objects and other hooks of a lower weight, and no others."""
    found = [
        one
        for one in chart.objects(chart.manifest(name))
        if "pre-install" in one["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    ]
    order = {
        one["kind"]: (int(one["metadata"]["annotations"]["helm.sh/hook-weight"]), one["metadata"]["name"])
        for one in found
    }
    account = next(one for one in found if one["kind"] == "Job")["spec"]["template"]["spec"]
    assert order["ServiceAccount"][0] < order["Job"][0]
    assert order["NetworkPolicy"][0] < order["Job"][0]
    assert account["serviceAccountName"] == order["ServiceAccount"][1]


def test_models_are_fetched_as_locked() -> None:
    given = {"models": {"lockConfigMap": "lock", "tokenSecret": "hub"}, "pools.default.pull": ["sd-v1-5"]}
    text = chart.template(CPU, **given)
    pod = chart.of_kind(text, "Deployment")["farm-nightmill-worker-default"]["spec"]["template"]["spec"]
    fetch = pod["initContainers"][0]
    assert "nightmill models pull --locked sd-v1-5\n" in fetch["args"][0]
    assert chart.environment(fetch)["HF_TOKEN"] == "secret/hub/token"
    assert "HF_TOKEN" not in chart.environment(pod["containers"][0])
    unlocked = chart.template(CPU, **{"pools.default.pull": ["sd-v1-5"]})
    assert "nightmill models pull sd-v1-5\n" in unlocked
    assert (
        "initContainers"
        not in deployments("cpu-small")["farm-nightmill-worker-default"]["spec"]["template"]["spec"]
    )


def test_only_readers_of_metrics_come_in_and_only_to_servers_it_goes_out() -> None:
    policies = chart.of_kind(chart.manifest("gpu-keda"), "NetworkPolicy")
    spec = policies["farm-nightmill"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = spec["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": 9464}]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in ingress["from"]] == [
        {"kubernetes.io/metadata.name": "monitoring"},
        {"kubernetes.io/metadata.name": "keda"},
    ]
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 5432, 6379, 443}
    closed = chart.of_kind(chart.manifest("airgapped"), "NetworkPolicy")["farm-nightmill"]["spec"]
    assert "ingress" not in closed
    assert {port["port"] for rule in closed["egress"] for port in rule["ports"]} == {53, 6432, 6379}


def test_what_is_switched_off_is_not_there() -> None:
    off = {
        "networkPolicy.enabled": False,
        "migrate.enabled": False,
        "scheduler.pdb.enabled": False,
        "serviceAccount": {"create": False, "name": "mine"},
    }
    kinds = {one["kind"] for one in chart.objects(chart.template(CPU, **off))}
    assert kinds == {"Deployment", "Service", "Pod"}
