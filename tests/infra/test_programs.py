"""The programs that check deployment files are found or fetched."""

from tests.infra.programs import run


def test_helm_and_promtool_are_there() -> None:
    assert run("helm", "version", "--short").stdout.startswith("v")
    assert "promtool, version" in (done := run("promtool", "--version")).stdout + done.stderr
