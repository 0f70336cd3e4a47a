"""Counts of a manifest's lines by kind."""

from dataclasses import dataclass, field


@dataclass
class LineCounts:
    """Line counts, filled while a manifest is read; `lines` is the total of rows (rejected or not) and other lines.

    `continued` counts the further lines of quoted cells. In formats whose rows have no lines of their own (Parquet,
    JSON documents, recipes), each row counts as a line. `left_out` names columns that can't be kept, `not_found`
    columns that were to be dropped and that no row has.
    """

    lines: int = 0
    header: int = 0
    blank: int = 0
    continued: int = 0
    left_out: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)

    def report(self, rows: int, rejected: int) -> dict[str, int]:
        """Return the counts for display: `read` is the sum of the others; `rows` are the usable rows."""
        return {
            "read": self.lines,
            "rows": rows,
            "rejected": rejected,
            "blank": self.blank,
            "header": self.header,
            "continued": self.continued,
        }
