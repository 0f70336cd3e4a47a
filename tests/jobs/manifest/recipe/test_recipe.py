import gzip
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.manifest import Reject, Row, open_source, read_rows
from jobs.manifest.seeds import Seeds
from jobs.storage.safe_open import Writable
from tests.jobs.manifest.helpers import read, rules
from tests.jobs.manifest.recipe.helpers import prompts, records, rows, values, write
from tests.paths import ROOT

ANIMALS = """
    prompts:
      template: "a {size} {colour} {animal}"
    variables:
      colour: [red, green]
      size: [small, 2]
      animal: {file: animals.txt}
"""


def test_all_combinations_in_the_order_of_the_variables(tmp_path: Path) -> None:
    path = write(tmp_path, ANIMALS, animals_txt="fox\r\n\n  owl \n")
    made = values(path)
    assert [row["prompt"] for row in made] == [
        f"a {size} {colour} {animal}"
        for colour in ("red", "green")
        for size in ("small", "2")
        for animal in ("fox", "owl")
    ]
    assert made[2] == {"prompt": "a 2 red fox", "colour": "red", "size": 2, "animal": "fox"}


def test_each_template_takes_the_variables_that_it_uses(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts:
          template:
            - "{a} {{b}} {b}"
            - "{b}"
            - "plain"
        variables: {a: [1, 2], b: [x, y]}
        """,
    )
    assert prompts(path) == ["1 {b} x", "1 {b} y", "2 {b} x", "2 {b} y", "x", "y", "plain"]
    assert "a" not in values(path)[4]
    assert [record.line for record in records(path)] == [4] * 4 + [5] * 2 + [6]


def test_a_file_of_prompts_as_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts: {file: p.jsonl, limit: 3}
        columns: {steps: 9, place: {city: [Bonn]}}
        """,
        p_jsonl='{"prompt": "fox", "seed": 5, "label": "f"}\n{"Prompt": "owl {x}"}\n\n'
        '{"prompt": "cat"}\n{"prompt": "d"}\n',
    )
    made = rows(path)
    assert [(row.prompt, row.steps, row.seed) for row in made] == [
        ("fox", 9, 5),
        ("owl {x}", 9, None),
        ("cat", 9, None),
    ]
    assert made[0].meta == {"label": "f", "place": {"city": ["Bonn"]}}


def test_prompts_of_a_file_in_a_template(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts: {file: p.csv, template: ["{prompt}, {style}", "{prompt}"]}
        variables: {style: [oil, ink]}
        """,
        p_csv="Label,Prompt\nf,a {fox}\no,\n",
    )
    made = read(path)
    assert [(item.prompt, item.meta) for item in made[:3] if isinstance(item, Row)] == [
        ("a {fox}, oil", {"Label": "f", "style": "oil"}),
        ("a {fox}, ink", {"Label": "f", "style": "ink"}),
        ("a {fox}", {"Label": "f"}),
    ]
    assert [item.prompt for item in made[3:] if isinstance(item, Row)] == [", oil", ", ink"]
    assert isinstance(made[5], Reject)
    assert (made[5].line, made[5].reason) == (2, "prompt is empty")


@pytest.mark.parametrize("name", ["p.parquet", "p.tsv", "p.txt", "p.txt.gz"])
def test_every_format_of_prompts(tmp_path: Path, name: str) -> None:
    if name == "p.parquet":
        pq.write_table(pa.table({"prompt": ["fox", "owl"]}), tmp_path / name)
    else:
        text = "prompt\tn\nfox\t1\nowl\t2\n" if name == "p.tsv" else "fox\nowl\n"
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if ".gz" in name else text.encode())
    assert prompts(write(tmp_path, f"prompts: {{file: {name}}}\n")) == ["fox", "owl"]


def test_a_sweep_is_innermost_and_its_last_column_fastest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts: {template: "{x}"}
        variables: {x: [a, b]}
        sweep:
          guidance_scale: [1.5, 2]
          sampler: [ddim, PNDM]
          negative_prompt: ["", blurry]
        columns: {steps: 50}
        """,
    )
    made = rows(path)
    assert [(row.prompt, row.guidance_scale, row.sampler, row.negative_prompt) for row in made] == [
        (prompt, scale, sampler, negative)
        for prompt in "ab"
        for scale in (1.5, 2)
        for sampler in ("ddim", "pndm")
        for negative in ("", "blurry")
    ]
    assert {row.steps for row in made} == {50}
    assert made[0].meta == {"x": "a"}


def seeds(path: Path, batch_seed: int = 0) -> list[list[int]]:
    return [Seeds(batch_seed).of(row) for row in rows(path)]


SWEPT = """
    prompts: {template: ["{x}", "again {x}"], file: p.txt}
    variables: {x: [a, b, c]}
    sweep: {guidance_scale: [1, 2]}
"""


def test_the_rows_of_a_prompt_share_their_seeds(tmp_path: Path) -> None:
    text = SWEPT.replace("{x}", "{prompt} {x}") + "    columns: {num_images: 2}\n"
    shared = seeds(write(tmp_path, text, p_txt="fox\nowl\n"))
    assert shared[0::2] == shared[1::2]
    assert len({seed for pair in shared[0::2] for seed in pair}) == 2 * 2 * 3 * 2
    assert seeds(tmp_path / "r.yaml", batch_seed=1) != shared
    plain = write(tmp_path, "prompts: {file: p.txt}\n")
    assert seeds(plain) == [Seeds(0).of(row) for row in read(tmp_path / "p.txt") if isinstance(row, Row)]
    alone = seeds(write(tmp_path, text + "    share_seed: false\n"))
    assert len({seed for pair in alone for seed in pair}) == 48


def test_seeds_that_are_given_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: {template: a fox}\nsweep: {seed: [7, 8], steps: [1, 2]}\n")
    assert seeds(path) == [[7], [7], [8], [8]]


def test_a_draw_depends_on_its_number_and_name_alone(tmp_path: Path) -> None:
    text = """
        prompts: {{template: "{{a}} {{b}}{more}"}}
        variables: {{a: [1, 2, 3], b: {{x: 1, y: 5}}{also}}}
        draw: {{random: {count}, seed: {seed}}}
    """
    first = prompts(write(tmp_path, text.format(more="", also="", count=40, seed=3)))
    assert len(set(first)) > 3
    assert prompts(tmp_path / "r.yaml") == first
    longer = prompts(write(tmp_path, text.format(more="", also="", count=90, seed=3)))
    assert longer[:40] == first
    assert prompts(write(tmp_path, text.format(more="", also="", count=40, seed=4))) != first
    wider = prompts(write(tmp_path, text.format(more=" {c}", also=", c: [u, v]", count=40, seed=3)))
    assert [prompt[:-2] for prompt in wider] == first


def test_a_drawn_recipe_draws_anew_for_every_prompt(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts: {template: ["{prompt} {n}", "{prompt}"], file: p.txt}
        variables: {n: {file: n.txt}}
        draw: {random: 5}
        """,
        p_txt="fox\nowl\n",
        n_txt="\n".join(map(str, range(10_000))),
    )
    made = prompts(path)
    assert made[5:10] == ["fox"] * 5
    assert made[15:] == ["owl"] * 5
    assert len({prompt.split()[-1] for prompt in made[:5] + made[10:15]}) == 10


def test_a_row_of_the_file_that_is_broken_rejects_all_that_it_would_have_made(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts:
          template: "{prompt}, {x}"
          file: p.jsonl
        variables: {x: [a, b]}
        sweep: {steps: [1, 2]}
        """,
        p_jsonl='{"prompt": "fox"}\nnonsense\n{"prompt": "owl", "x": 1}\n{"prompt": "cat", "stpes": 1}\n',
    )
    made = read(path)
    kinds = [type(item).__name__ for item in made]
    assert kinds == ["Row"] * 4 + ["Reject"] * 12
    broken, twice, misspelt = (made[place] for place in (4, 8, 12))
    assert isinstance(broken, Reject)
    assert isinstance(twice, Reject)
    assert isinstance(misspelt, Reject)
    assert (broken.line, broken.ordinal, broken.excerpt) == (4, 4, "nonsense")
    assert broken.reason.startswith("p.jsonl, line 2: is not JSON")
    assert twice.column == "x"
    assert twice.reason == "p.jsonl, line 3: the recipe has a 'x' of its own; rename or remove one of them"
    assert misspelt.line == 3
    assert json.loads(misspelt.excerpt) == {"prompt": "cat, a", "stpes": 1, "x": "a", "steps": 1}


def test_text_that_can_not_be_stored_is_rejected(tmp_path: Path) -> None:
    path = write(
        tmp_path, "prompts: {file: p.jsonl}\n", p_jsonl='{"prompt": "a\\u0000b"}\n{"prompt": "fox"}\n'
    )
    bad, good = read(path)
    assert isinstance(bad, Reject)
    assert "NUL" in bad.reason
    assert isinstance(good, Row)


def digest(path: Path) -> str:
    with open_source(str(path)) as manifest:
        return manifest.sha256


def test_a_changed_file_is_another_manifest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "prompts: {file: p.txt, template: '{prompt} {x}'}\nvariables: {x: {file: x.txt}}\n",
        p_txt="fox\n",
        x_txt="1\n",
    )
    first = digest(path)
    assert digest(path) == first
    (tmp_path / "x.txt").write_text("2\n")
    second = digest(path)
    (tmp_path / "p.txt").write_text("owl\n")
    assert len({first, second, digest(path)}) == 3
    path.write_text(path.read_text() + "# said more\n")
    assert len({first, second, digest(path)}) == 3


def test_packed_and_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.csv").write_text("Caption,n\nfox,1\n")
    text = "prompts: {file: p.csv, template: '{prompt} {x}'}\nvariables: {x: [a]}\nsweep: {steps: [1, 2]}\n"
    (tmp_path / "r.yml.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)
    with open_source("r.yml.gz", prompt_header="Caption") as manifest:
        made = list(read_rows(manifest, rules({"guidance_scale": "3"}, {"prompt": "Caption"})))
    assert (manifest.format, manifest.stem, manifest.rows) == ("recipe", "r", 2)
    assert [
        (row.prompt, row.steps, row.guidance_scale, row.meta) for row in made if isinstance(row, Row)
    ] == [("fox a", steps, 3, {"n": "1", "x": "a"}) for steps in (1, 2)]
    bare = write(tmp_path, "prompts: {template: a fox}\n")
    assert [
        row.prompt for row in read(bare, rules(renames={"prompt": "Caption"})) if isinstance(row, Row)
    ] == ["a fox"]


def test_a_recipe_beside_its_prompts_in_s3(tmp_path: Path) -> None:
    stored = {"s3://b/in/r.yaml": "prompts: {file: sub/p.txt}\n", "s3://b/in/sub/p.txt": "fox\nowl\n"}

    def fetch(uri: str, file: Writable) -> None:
        file.write(stored[uri].encode())

    with open_source("s3://b/in/r.yaml", fetch=fetch) as manifest:
        assert [row.prompt for row in read_rows(manifest, rules()) if isinstance(row, Row)] == ["fox", "owl"]


def test_a_hundred_million_rows_are_counted_at_once_and_never_held(tmp_path: Path) -> None:
    lines = "\n".join(map(str, range(1000)))
    path = write(
        tmp_path,
        """
        prompts: {template: "{a} {b} {c}"}
        variables: {a: {file: n.txt}, b: {file: n.txt}, c: [1, 2, 3, 4]}
        sweep: {guidance_scale: [1, 2, 3, 4, 5], seed: [1, 2, 3, 4, 5]}
        """,
        n_txt=lines,
    )
    with open_source(str(path)) as manifest:
        assert manifest.rows == 100_000_000
        made = read_rows(manifest, rules())
        assert len(list(islice(made, 5_000))) == 5_000
        tracemalloc.start()
        try:
            count = sum(1 for _ in islice(made, 20_000))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == 20_000
    assert peak < 200_000, "rows are kept"


def test_the_example_is_the_model_cards_evaluation() -> None:
    made = rows(ROOT / "examples" / "guidance-sweep.yaml")
    assert len(made) == 16 * 8
    assert {(row.steps, row.sampler) for row in made} == {(50, "pndm")}
    assert [row.guidance_scale for row in made[:8]] == [1.5, 2, 3, 4, 5, 6, 7, 8]
    assert len({tuple(Seeds(0).of(row)) for row in made[:8]}) == 1
    assert len({tuple(Seeds(0).of(row)) for row in made}) == 16
