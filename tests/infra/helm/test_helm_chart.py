"""The Helm chart is well-formed: helm, the schemas of Kubernetes and of the operators whose objects it makes."""

import json
import tomllib
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.infra import write_derived_files
from tests.infra.helm import chart, values_table
from tests.infra.programs import run
from tests.paths import ROOT

KUBERNETES = ("1.33", "1.34", "1.35")
SCHEMAS = ROOT / "tests" / "infra" / "helm" / "schemas"
OPERATORS = {path.stem for path in SCHEMAS.glob("*.json")}


def schema(kind: str) -> Any:
    return json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))


def test_there_are_five_examples_of_values() -> None:
    assert chart.NAMES == [
        "airgapped",
        "cpu-small",
        "gpu-keda",
        "gpu-mig-two-pools",
        "workload-identity-s3",
    ]


@pytest.mark.parametrize("path", chart.VALUE_FILES, ids=chart.NAMES)
def test_helm_has_nothing_to_say(path: Any) -> None:
    done = run("helm", "lint", "--strict", chart.CHART, "--values", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("name", chart.NAMES)
def test_objects_are_as_kubernetes_wants_them(name: str) -> None:
    found = chart.objects(chart.manifest(name))
    assert len(found) > 8
    for version in KUBERNETES:
        for one in found:
            if one["kind"] in OPERATORS:
                jsonschema.validate(one, schema(one["kind"]))
            else:
                kubernetes_validate.validate(one, version, strict=True)


def test_all_kinds_of_operators_are_rendered_and_checked() -> None:
    rendered = {one["kind"] for name in chart.NAMES for one in chart.objects(chart.manifest(name))}
    assert rendered >= OPERATORS
    assert len(OPERATORS) == 4


def misspell_trigger(found: dict[str, Any]) -> None:
    found["spec"]["triggers"][0]["metadata"]["targetvalue"] = found["spec"]["triggers"][0]["metadata"].pop(
        "targetValue"
    )


def number_as_target(found: dict[str, Any]) -> None:
    found["spec"]["triggers"][0]["metadata"]["targetValue"] = 1


def misspell_field(found: dict[str, Any]) -> None:
    found["spec"]["minReplicas"] = found["spec"].pop("minReplicaCount")


@pytest.mark.parametrize("damage", [misspell_trigger, number_as_target, misspell_field])
def test_the_schema_of_scaled_objects_finds_mistakes(damage: Callable[[dict[str, Any]], None]) -> None:
    found = chart.of_kind(chart.manifest("gpu-keda"), "ScaledObject")["farm-nightmill-worker-default"]
    damage(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema("ScaledObject"))


def test_a_misspelt_field_of_kubernetes_is_found() -> None:
    found = chart.of_kind(chart.manifest("cpu-small"), "Deployment")["farm-nightmill-scheduler"]
    found["spec"]["template"]["spec"]["terminationGraceSeconds"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("name", chart.NAMES)
def test_the_chart_renders_as_before(name: str) -> None:
    """After a change that is meant: `python -m tests.infra.write_derived_files`, and read the difference."""
    assert chart.objects(chart.manifest(name)) == chart.objects(chart.golden(name))


def test_the_readme_tells_every_value() -> None:
    assert write_derived_files.README.read_text(encoding="utf-8") == write_derived_files.readme()
    told = values_table.rows()
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
    untold = [
        leaf
        for leaf in values_table.leaves(values)
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in told)
    ]
    assert untold == []
    assert len(told) > 80


def test_the_schema_knows_every_value() -> None:
    """Those of values.yaml and no others, so that a misspelt one is refused."""
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
    known = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))
    properties = set(known["properties"]) - {"global"}
    assert properties == set(values)
    assert set(known["definitions"]["pool"]["properties"]) == set(values["poolDefaults"])


def test_the_chart_is_of_this_version() -> None:
    told = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert told["appVersion"] == project["version"]
    assert "dependencies" not in told
