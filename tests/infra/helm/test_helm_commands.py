"""What the chart's pods run, run here as they say: the same arguments and variables, real servers, no containers."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from jobs.settings import Settings
from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from tests.command_line import Nightmill
from tests.end_to_end.processes import until
from tests.infra.helm import chart
from tests.infra.programs import run
from tests.paths import ROOT
from tests.s3 import CREDENTIALS, S3Server
from tests.scraping import free_address, get, listens, scrape

VALUES = chart.CHART.parent / "values" / "gpu-mig-two-pools.yaml"
FOLDERS = ("/data", "/models")


class Cluster:
    """Runs containers of a rendered chart as processes, with secrets and folders of the test."""

    def __init__(self, text: str, secrets: dict[str, str], folder: Path) -> None:
        self.text, self.secrets, self.folder = text, secrets, folder

    def start(self, container: chart.Object, *arguments: str, **replaced: str) -> subprocess.Popen[str]:
        for folder in FOLDERS:
            (self.folder / folder[1:]).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "console.cli", *(arguments or container["args"])],
            env=self._environment(container) | replaced,
            cwd=self.folder / "data",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, container: chart.Object, *arguments: str, stdin: str = "") -> str:
        process = self.start(container, *arguments)
        out, err = process.communicate(stdin, timeout=150)
        assert process.returncode == 0, out + err
        return out

    def _environment(self, container: chart.Object) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        for name, value in chart.environment(container).items():
            if value.startswith("secret/"):
                found[name] = self.secrets[value.removeprefix("secret/")]
            else:
                found[name] = str(self.folder / value[1:]) if value in FOLDERS else value
        return found


@pytest.fixture
def cluster(servers: Settings, empty_database: str, s3: S3Server, tmp_path: Path) -> Cluster:
    """The example with two pools, on an empty database, with an S3 server that wants a key."""
    text = chart.template(
        VALUES, **{"output.uri": f"{s3.uri}/night", "output.s3.endpointUrl": s3.endpoint_url}
    )
    secrets = {
        "nightmill-database/database-url": empty_database,
        "nightmill-broker/broker-url": servers.broker,
        "nightmill-s3/access-key-id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "nightmill-s3/secret-access-key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    return Cluster(text, secrets, tmp_path)


@contextmanager
def serving(cluster: Cluster, deployment: str, **replaced: str) -> Iterator[tuple[chart.Object, str]]:
    """The only container of a Deployment's pod and where it listens; stopped as a pod is, within its grace period."""
    pod = chart.of_kind(cluster.text, "Deployment")[deployment]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    address = free_address()
    with cluster.start(container, NIGHTMILL_METRICS_ADDRESS=address, **replaced) as process:
        try:
            until(lambda: listens(address))
            for probe in ("startup", "liveness", "readiness"):
                path = container[f"{probe}Probe"]["httpGet"]["path"]
                until(lambda path=path: get(address, path).status == 200)
            yield container, address
        finally:
            process.terminate()
            process.communicate(timeout=pod["terminationGracePeriodSeconds"])
            assert process.returncode == 0


@pytest.mark.slow
def test_an_install_goes_from_the_hook_to_images(cluster: Cluster) -> None:
    job = chart.of_kind(cluster.text, "Job")["farm-nightmill-migrate"]["spec"]["template"]["spec"]
    for container in job["initContainers"]:
        cluster.run(container)
    for container in job["containers"]:
        shown = cluster.run(container)
    assert re.search(r"large +sd-2-1 .* 2 +", shown), shown
    assert re.search(r"slices +sd-v1-5, shapes .* 7 +", shown), shown

    doctor = chart.of_kind(cluster.text, "Pod")["farm-nightmill-doctor"]["spec"]["containers"][0]
    checks = orjson.loads(cluster.run(doctor))
    assert [check for check in checks if not check["ok"]] == []

    with serving(cluster, "farm-nightmill-scheduler") as (container, address):
        assert wanted(cluster, address) == 0
        for command in commands_in_the_notes():
            cluster.run(container, *command, stdin='{"prompt": "a red circle", "num_images": 1000}\n')
        # 10 s an image, as nothing was measured yet, in 30 minutes; the pool may have 7.
        until(lambda: wanted(cluster, address) == 6)
        # The example's GPU isn't here; its other pool serves another model.
        with serving(cluster, "farm-nightmill-worker-slices", NIGHTMILL_DEVICE="cpu") as (_, worker):
            until(lambda: scrape(worker).get("nightmill_images_total shapes", 0) > 0)


def wanted(cluster: Cluster, address: str) -> int:
    """What KEDA reads of the pool that it scales, at the scheduler with this address."""
    ((name, scaled),) = chart.of_kind(cluster.text, "ScaledObject").items()
    metadata = scaled["spec"]["triggers"][0]["metadata"]
    answer = get(address, urlsplit(metadata["url"]).path)
    assert (name, answer.status) == ("farm-nightmill-worker-slices", 200)
    return int(orjson.loads(answer.body)[metadata["valueLocation"]])


def commands_in_the_notes() -> list[list[str]]:
    """The arguments of what helm tells one to run in a scheduler's pod after an install."""
    options = ["--namespace", "night", "--dry-run=client", "--values", VALUES]
    told = run("helm", "install", "farm", chart.CHART, *options).stdout.partition("NOTES:")[2]
    found = re.findall(r"deploy/farm-nightmill-scheduler -- nightmill ([^<\n]+)", told)
    assert [command.split()[0] for command in found] == ["submit", "status", "workers"]
    return [command.split() for command in found]


def test_models_are_compared_with_the_lock_before_a_worker_starts(
    nightmill: Nightmill, shared_models: Path, tmp_path: Path
) -> None:
    """The init container of the example without a hub, on a claim that holds a model of one's own."""
    models, lock = tmp_path / "models", tmp_path / "lock"
    own = models / "dog"
    shutil.copytree(resolve(Catalogue.load(shared_models).get("tiny"), shared_models).path, own)
    claim = Nightmill(nightmill.settings.model_copy(update={"models_dir": models}), tmp_path)
    assert claim("models", "add", str(own), "--id", "dog", "--base", "tiny").code == 0
    lock.mkdir()
    (models / "nightmill.lock").rename(lock / "nightmill.lock")

    pod = chart.of_kind(chart.golden("airgapped"), "Deployment")["farm-nightmill-worker-default"]["spec"]
    (container,) = pod["template"]["spec"]["initContainers"]
    script = container["args"][0].replace("/lock/", f"{lock}/").replace("/models/", f"{models}/")
    script = script.replace("nightmill models", f"{sys.executable} -m console.cli models")

    def start() -> subprocess.CompletedProcess[str]:
        environment = claim.settings.environment() | {"HOSTNAME": "farm-0"}
        return subprocess.run(
            [*container["command"], script],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    passed = start()
    assert (passed.returncode, "dog is as locked" in passed.stdout) == (0, True), passed.stderr
    assert (models / "nightmill.lock").read_bytes() == (lock / "nightmill.lock").read_bytes()
    assert [path.name for path in models.glob(".nightmill.lock.*")] == []
    config = own / "unet" / "config.json"
    config.write_text(config.read_text() + "\n")
    refused = start()
    assert (refused.returncode, f"{config}: has the SHA-256" in refused.stderr) == (1, True)
