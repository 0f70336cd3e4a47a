"""What the lines of a manifest were."""

from dataclasses import dataclass, field


@dataclass
class LineCounts:
    """Filled while a manifest is read; `lines` is all of them: each a row (rejected or not) or one of the others.

    `continued` are the further lines of quoted cells. Where rows have no lines of their own (Parquet, JSON documents,
    recipes), each counts as one. `left_out` names columns that can't be kept, `not_found` those that were to be dropped
    and that no row has.
    """

    lines: int = 0
    header: int = 0
    blank: int = 0
    continued: int = 0
    left_out: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)

    def report(self, rows: int, rejected: int) -> dict[str, int]:
        """The sum for people: `read` lines are all the others together; `rows` are those that can be used."""
        return {
            "read": self.lines,
            "rows": rows,
            "rejected": rejected,
            "blank": self.blank,
            "header": self.header,
            "continued": self.continued,
        }
