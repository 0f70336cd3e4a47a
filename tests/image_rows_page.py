"""`python -m tests.image_rows_page`: write docs/reference/image-rows.md from the columns of the table `images`."""

from sqlalchemy.dialects import postgresql

from jobs.images.insert_and_public_columns import PublicColumn, public_columns
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "image-rows.md"

_HEAD = """# Image rows

Written by `python -m tests.image_rows_page`; a test compares.

The columns of an image row, the same in Parquet, in JSONL and in the feed. Types are PostgreSQL's; JSON is nested in
JSONL and in the feed, and text in Parquet.

| column | type | meaning |
|---|---|---|
"""


def page() -> str:
    """The whole page, as Markdown."""
    return _HEAD + "".join(map(_line, public_columns()))


def _line(column: PublicColumn) -> str:
    kind = column.type.compile(dialect=postgresql.dialect()).lower().removesuffix("b")
    return f"| `{column.name}` | {kind} | {column.doc} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
