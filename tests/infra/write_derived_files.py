"""`python -m tests.infra.write_derived_files`: write what is made from other files of infra/.

The golden files of the chart, the files that it holds copies of, and its table of values.
"""

from tests.infra.helm import chart, values_table
from tests.paths import ROOT

README = chart.CHART / "README.md"
FILES = chart.CHART / "files"
COPIES = {ROOT / "infra" / "prometheus" / "rules.yaml": FILES / "rules.yaml"} | {
    path: FILES / "dashboards" / path.name
    for path in sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
}
"""A chart is packed with files of its own folder only, so it holds copies."""


def readme() -> str:
    """The chart's README with its table as it should be."""
    before, _, rest = README.read_text(encoding="utf-8").partition(values_table.START)
    after = rest.partition(values_table.END)[2]
    return f"{before}{values_table.START}{values_table.table()}{values_table.END}{after}"


def main() -> None:
    """Write all."""
    (FILES / "dashboards").mkdir(exist_ok=True)
    for source, copy in COPIES.items():
        copy.write_bytes(source.read_bytes())
    chart.GOLDEN.mkdir(exist_ok=True)
    for name in chart.NAMES:
        (chart.GOLDEN / f"{name}.yaml").write_text(chart.manifest(name), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
