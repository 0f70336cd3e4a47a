"""Any bytes for every reader of manifests: what comes out are results and our own errors, nothing else."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from jobs.errors import NightmillError
from jobs.manifest import Reject, Row, open_source, read_rows
from tests.fuzz import IN_MEMORY, mutants
from tests.jobs.manifest.helpers import rules

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]  # two thousand inputs each
ROWS = [
    {"prompt": "a fox, red", "id": "1", "steps": 4, "x": [1.5, None, {"y": "z"}]},
    {"prompt": 'ein "Uhu"'},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b'prompt,id,steps\r\n"a fox, ""red""",1,4\r\nein Uhu,,\r\n'
RECIPE = b"""
prompts: {file: p.txt, template: ["{prompt} {x}", '{x}{prompt}']}
variables: {x: {red: 1, blue: 2.5}}
draw: {random: 3, seed: 7}
sweep: {steps: [1, 2], guidance_scale: [1.5, 3]}
columns: {tenant: a, label: [1, null, true]}
"""


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    columns = {
        "prompt": ["a fox", "an owl"] * 5,
        "steps": [1, None] * 5,
        "x": [[1.5], []] * 5,
        "y": [{"a": "b"}, None] * 5,
    }
    pq.write_table(pa.table(columns), sink, row_group_size=4)
    return sink.getvalue().to_pybytes()


READERS: dict[str, bytes] = {
    "m.csv": CSV,
    "m.tsv": CSV.replace(b",", b"\t"),
    "m.jsonl": LINES,
    "m.json": json.dumps(ROWS).encode(),
    "m.txt": "a fox\r\n\n# ein Uhu\nфокс\n--steps 4 a\n".encode(),
    "m.parquet": _parquet(),
    "m.jsonl.gz": gzip.compress(LINES, mtime=0),
    "m.csv.zst": zstandard.ZstdCompressor(write_checksum=True).compress(CSV),
    "m.parquet.gz": gzip.compress(_parquet(), mtime=0),
    "r.yaml": RECIPE,
    "unnamed": LINES,
}


@pytest.mark.parametrize("name", READERS)
def test_a_manifest_of_any_bytes_is_rows_rejects_or_our_error(name: str) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / name
        (Path(folder) / "p.txt").write_text("a fox\nan owl\n")

        def read(body: bytes) -> None:
            path.write_bytes(body)
            with open_source(str(path), limit=2**24) as manifest:
                items = list(read_rows(manifest.sampled(200), rules()))
            assert all(isinstance(item, Row | Reject) for item in items)

        _try(READERS[name], read)


def _try(valid: bytes, read: Callable[[bytes], None]) -> None:
    read(valid)

    @seed(20_261_128)
    @settings(max_examples=2_000, deadline=None, database=None)
    @given(mutants(valid) | st.binary(max_size=300))
    def run(body: bytes) -> None:
        try:
            read(body)
        except NightmillError as error:
            str(error).encode()

    run()
