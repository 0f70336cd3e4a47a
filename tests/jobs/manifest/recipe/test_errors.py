# ruff: noqa: E501
import gzip
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.errors import ManifestError, UsageError
from jobs.manifest import open_source
from tests.jobs.manifest.helpers import read, rules
from tests.jobs.manifest.recipe.helpers import prompts, values, write

WRONG = [
    ("", "r.yaml: is empty."),
    ("# nothing\n", "r.yaml: is empty; it needs at least the key 'prompts'"),
    ("just text", "r.yaml:1:1: a recipe has to be a mapping"),
    ("promts: {template: a}", "r.yaml:1:1: a recipe has no key 'promts'; did you mean 'prompts'?"),
    ("draw: product", "r.yaml:1:1: there is no 'prompts'"),
    ("prompts: {template: a}\nprompts: {template: b}", "r.yaml:2:1: has the key 'prompts' twice, first on line 1"),
    ("prompts: [a]", "r.yaml:1:10: prompts has to be a mapping"),
    ("prompts: {}", "r.yaml:1:10: there are no prompts"),
    ("prompts: {template: []}", "r.yaml:1:21: template has no values"),
    ("prompts: {template: [a, a]}", "r.yaml:1:25: template has 'a' twice, first on line 1"),
    ("prompts: {template: '  '}", "r.yaml:1:21: a template is a text"),
    ("prompts: {template: 5}", "r.yaml:1:21: a template is a text"),
    ("prompts: {templates: a}", "r.yaml:1:11: prompts has no key 'templates'; did you mean 'template'?"),
    ("prompts: {template: a, limit: 5}", "r.yaml:1:31: limit is for a file of prompts"),
    ("prompts:\n  template: 'a {colur}'\nvariables: {colour: [red]}", "r.yaml:2:13: there is no variable 'colur'; did you mean 'colour'?"),
    ("prompts: {template: 'a {prompt}'}", "r.yaml:1:21: there is no variable 'prompt'; {prompt} is the prompt of a file"),
    ("prompts: {template: 'a {x}'}", "there is no variable 'x'; list its values under variables"),
    ("prompts: {template: 'a } b'}", "r.yaml:1:21: the template's braces don't pair up"),
    ("prompts: {template: 'a {x'}", "r.yaml:1:21: the template's braces don't pair up"),
    ("prompts: {template: '{x!r}'}\nvariables: {x: [1]}", "r.yaml:1:21: '{x}': write a variable's name alone"),
    ("prompts: {template: '{x.y}'}\nvariables: {x: [1]}", "r.yaml:1:21: '{x.y}': write a variable's name alone"),
    ("prompts: {template: '{x[0]}'}\nvariables: {x: [1]}", "'{x[0]}': write a variable's name alone"),
    ("prompts: {template: '{}'}\nvariables: {x: [1]}", "'{}': write a variable's name alone"),
    ("prompts: {template: a}\nvariables: {x: [1]}", "r.yaml:2:13: the variable 'x' is used in no template"),
    ("prompts: {template: '{x}'}\nvariables: {x: []}", "r.yaml:2:16: x has no values"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a, b,\n a]}", "r.yaml:3:2: x has 'a' twice, first on line 2"),
    ("prompts: {template: '{x}'}\nvariables: {x: a}", "r.yaml:2:16: x has to be a list of values"),
    ("prompts: {template: '{x}'}\nvariables: {x: [true]}", "r.yaml:2:17: a value of x is text or a number, not True"),
    ("prompts: {template: '{x}'}\nvariables: {x: [[a]]}", "r.yaml:2:17: a value of x is text or a number"),
    ("prompts: {template: '{x}'}\nvariables: {x: {}}", "r.yaml:2:16: x has no values"),
    ("prompts: {template: '{x}'}\nvariables: {x: {a: 0}}\ndraw: {random: 5}", "r.yaml:2:20: a weight is a number above 0, not 0"),
    ("prompts: {template: '{x}'}\nvariables: {x: {a: -1.5}}\ndraw: {random: 5}", "a weight is a number above 0, not -1.5"),
    ("prompts: {template: '{x}'}\nvariables: {x: {a: much}}\ndraw: {random: 5}", "a weight is a number above 0, not 'much'"),
    ("prompts: {template: '{x}'}\nvariables: {x: {a: 1, b: 2}}", "x has weights, which say how often a value is drawn"),
    ("prompts: {template: '{steps}'}\nvariables: {steps: [1]}", "r.yaml:2:13: the variable 'steps' is or looks like the column 'steps'"),
    ("prompts: {template: '{cfg}'}\nvariables: {cfg: [1]}", "the variable 'cfg' is or looks like the column 'guidance_scale'"),
    ("prompts: {template: '{x}'}\nvariables: {'a b': [1]}", "r.yaml:2:13: 'a b' can't name a variable"),
    ("prompts: {template: a}\ndraw: product", "r.yaml:2:7: there are no variables to draw"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a]}\ndraw: all", "r.yaml:3:7: draw has to be 'product' or {random:"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a]}\ndraw: {seed: 1}", "r.yaml:3:7: say how many to draw"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a]}\ndraw: {random: 0}", "r.yaml:3:16: random must be a whole number from 1"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a]}\ndraw: {random: 5, seed: -1}", "r.yaml:3:25: seed must be a whole number from 0"),
    ("prompts: {template: a}\nsweep: {guidance: [1]}", "r.yaml:2:9: 'guidance' is not a column that can be swept; did you mean 'guidance_scale'?"),
    ("prompts: {template: a}\nsweep: {prompt: [b]}", "'prompt' is not a column that can be swept"),
    ("prompts: {template: a}\nsweep: {steps: 5}", "r.yaml:2:16: a sweep of steps is a list of values"),
    ("prompts: {template: a}\nsweep: {steps: []}", "r.yaml:2:16: steps has no values"),
    ("prompts: {template: a}\nsweep: {steps: [[1]]}", "r.yaml:2:17: steps takes single values"),
    ("prompts: {template: a}\nsweep: {steps: [1, 2, 1]}", "steps has 1 twice"),
    ("prompts: {template: a}\nsweep: {steps: [1]}\ncolumns: {steps: 5}", "r.yaml:3:11: 'steps' is made on line 2 already"),
    ("prompts: {template: '{x}'}\nvariables: {x: [a]}\ncolumns: {x: 5}", "r.yaml:3:11: 'x' is made on line 2 already"),
    ("prompts: {template: a}\ncolumns: {prompt: b}", "r.yaml:2:11: prompt differs from row to row"),
    ("prompts: {template: a}\ncolumns: {stpes: 5}", "r.yaml:2:11: column 'stpes' is not known; did you mean 'steps'?"),
    ("prompts: {template: a}\ncolumns: {steps: [5, 6]}", "r.yaml:2:18: steps has one value here; a list of them belongs under sweep"),
    ("prompts: {template: a}\nshare_seed: 'no'", "r.yaml:2:13: share_seed must be true or false, not 'no'"),
    ("prompts: {file: none.txt}", "r.yaml:1:17: "),
    ("prompts: {file: 5}", "r.yaml:1:17: the name of a file has to stand here"),
    ("prompts: {file: '-'}", "r.yaml:1:17: the name of a file has to stand here"),
    ("prompts: {file: r.yaml}", "r.yaml:1:17: r.yaml is a recipe itself; name a file of prompts"),
    ("prompts: {file: p.txt, limit: 0}", "r.yaml:1:31: limit must be a whole number from 1"),
    ("prompts: {file: p.txt, limit: 1.5}", "limit must be a whole number from 1"),
    ("prompts: {file: blank.txt}", "r.yaml:1:17: blank.txt holds no prompts"),
    ("prompts: {file: p.txt, template: a}", "r.yaml:1:34: the prompts of the file are not used in this template"),
    ("prompts: {file: bad.csv}", "there is no 'prompt' column"),
    ("prompts: {template: '{x}'}\nvariables: {x: {file: blank.txt}}", "r.yaml:2:23: blank.txt: has no lines with text"),
    ("prompts: {template: '{x}'}\nvariables: {x: {file: twice.txt}}", "r.yaml:2:23: twice.txt, line 3: 'fox' stands on line 1 already"),
    ("prompts: {template: &t a}", "r.yaml:1:21: anchors (&) and aliases (*) are not read"),
    ("prompts: {template: !!python/name:os.system a}", "r.yaml:1:21: the tag"),
    ("prompts: {template: !own a}", "r.yaml:1:21: the tag '!own' is not read"),
    ("prompts: {template: [a, b}", "r.yaml:1:26: is not YAML"),
    ("prompts: {template: a}\n---\nprompts: {template: b}", "is not YAML"),
    ('prompts: {template: "a\\0b"}', "r.yaml:1:21: holds a NUL character"),
    ("prompts: {template: a}\ncolumns: {note: .nan}", "r.yaml:2:17: '.nan' is no number that can be used"),
    ("[" * 5000, "r.yaml:1:65: is nested more than 64 levels deep"),
    ("prompts: {template: a}\n# " + "x" * 2**20, "r.yaml: is over 1,048,576 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    write(
        tmp_path,
        text,
        p_txt="fox\n",
        blank_txt="\n \n",
        twice_txt="fox\nowl\nfox\n",
        bad_csv="caption\nfox\n",
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as told, open_source("r.yaml"):
        pass
    assert message in str(told.value)
    assert str(told.value).startswith("r.yaml") or "bad.csv" in message + str(told.value)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: {file: promts.txt}\n", prompts_txt="fox\n")
    with pytest.raises(
        ManifestError, match=r"r\.yaml:1:17: .*promts\.txt: no such file\. Did you mean .*/prompts\.txt\?"
    ):
        values(path)


def test_a_swept_column_cannot_be_set_for_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: {template: a fox}\nsweep: {steps: [1, 2]}\n")
    with pytest.raises(UsageError, match=r"--set steps: .*r\.yaml sweeps steps; take it out of there"):
        read(path, rules({"steps": "5"}))
    assert len(read(path, rules({"guidance_scale": "5"}))) == 2


def test_what_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"prompts:\n  template: f\xfcchse\n")
    with pytest.raises(ManifestError, match=r"r\.yaml, line 2: is not valid UTF-8"):
        values(tmp_path / "r.yaml")
    (tmp_path / "r.yaml.gz").write_bytes(gzip.compress(b"prompts: {template: a fox}\n" * 99)[:-20])
    with pytest.raises(ManifestError, match="damaged or truncated"):
        values(tmp_path / "r.yaml.gz")


def test_plain_values_are_read_by_the_core_schema(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        prompts: {template: "{x}"}
        variables: {x: [no, on, 1:30, 2026-01-01, 010, 1e3, -2.5, "7", yes, ~x, "", 0x1f]}
        columns: {empty: , tilde: ~, truth: true, deep: {a: [1, {b: no}]}}
        """,
    )
    made = values(path)
    expected = ["no", "on", "1:30", "2026-01-01", 10, 1000.0, -2.5, "7", "yes", "~x", "", "0x1f"]
    assert [row["x"] for row in made] == expected
    assert prompts(path) == list(map(str, expected))
    assert {name: made[0][name] for name in ("empty", "tilde", "truth", "deep")} == {
        "empty": None,
        "tilde": None,
        "truth": True,
        "deep": {"a": [1, {"b": "no"}]},
    }


def test_no_text_makes_a_traceback(tmp_path: Path) -> None:
    """Each prefix of a recipe, and each with a character gone, is read or refused as a ManifestError."""
    whole = textwrap.dedent("""\
        prompts: {template: ["a {x}", "b {{x}}"]}
        variables: {x: {red: 3, green: 1}}
        draw: {random: 3, seed: 5}
        sweep: {steps: [1, 2]}
        """)
    path = tmp_path / "r.yaml"
    for cut in range(1, len(whole)):
        for text in (whole[:cut], whole[: cut - 1] + whole[cut:]):
            path.write_text(text)
            with suppress(ManifestError):
                values(path)
