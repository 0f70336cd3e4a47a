"""The Helm chart: rendered, and what in it runs as pods."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.infra.programs import run
from tests.paths import ROOT

CHART = ROOT / "infra" / "helm" / "nightmill"
VALUE_FILES = sorted((ROOT / "infra" / "helm" / "values").glob("*.yaml"))
NAMES = [path.stem for path in VALUE_FILES]
GOLDEN = ROOT / "tests" / "infra" / "helm" / "golden"
Object = dict[str, Any]


@functools.cache
def manifest(name: str) -> str:
    """What `helm template` makes of one of the value files."""
    return template(ROOT / "infra" / "helm" / "values" / f"{name}.yaml")


def golden(name: str) -> str:
    """What `helm template` made of one of the value files when it was last looked at; a test compares."""
    return (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


def template(*files: Path, **given: Any) -> str:
    """What `helm template` makes of value files and `--set-json` values."""
    options = [option for path in files for option in ("--values", str(path))]
    options += [
        option for key, value in given.items() for option in ("--set-json", f"{key}={json.dumps(value)}")
    ]
    done = run("helm", "template", "farm", CHART, "--namespace", "night", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[Object]:
    """The objects of a rendered chart."""
    return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]  # ten times as quick


def of_kind(text: str, kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {found["metadata"]["name"]: found for found in objects(text) if found["kind"] == kind}


def pods(text: str) -> Iterator[tuple[str, Object]]:
    """Every pod that the objects make, as kind/name and a template with metadata and spec."""
    for found in objects(text):
        name = f"{found['kind']}/{found['metadata']['name']}"
        if found["kind"] == "Pod":
            yield name, found
        elif "template" in found.get("spec", {}):
            yield name, found["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, those that run before it included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, str]:
    """The variables of a container; one from a Secret as `secret/NAME/KEY`."""
    values = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {}).get("secretKeyRef")
        values[entry["name"]] = (
            f"secret/{source['name']}/{source['key']}" if source else entry.get("value", "")
        )
    return values
