"""Folders of Hive-partitioned datasets, `label=fox/date=2026-11-29/`: how values are written in them.

Only keys of exports have such folders; all others are of plain characters, which need no encoding anywhere.
"""

import re
from urllib.parse import quote

from jobs.errors import UsageError

NULL = "__HIVE_DEFAULT_PARTITION__"
"""Stands for null and for empty text, as in Hive: readers refuse, or fail at, a folder `label=`."""

MOST_BYTES = 255
"""Length of a folder's name that file systems allow. Three such folders fit into a key of S3, of 1,024 bytes."""

COLUMN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of columns that no reader decodes, nor passes over as hidden."""

FOLDERS = rf"(?:{COLUMN.pattern}=(?:[A-Za-z0-9._-]|%[0-9A-F]{{2}})+/)+"
"""A regular expression of one or more such folders, each with a slash behind it."""


def partition_folder(column: str, value: str | None) -> str:
    """Return `column=value`: UTF-8 in percent-encoding, but for letters and digits of ASCII and `.`, `_`, `-`.

    Raises UsageError if the value is too long for a folder's name.
    """
    text = quote(value or NULL, safe="", errors="replace").replace("~", "%7E")
    folder = f"{column}={text}"
    if len(folder) > MOST_BYTES:
        raise UsageError(
            f"can't partition by {column}: the value {(value or '')[:40]!r}… has {len(text):,} bytes as a folder's "
            f"name, and {MOST_BYTES - len(column) - 1} have room; partition by a column with short values"
        )
    return folder
