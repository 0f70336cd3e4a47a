"""Parse the templates of a recipe; all names in them must be known and all variables must be used."""

from collections.abc import Collection, Iterator, Sequence
from string import Formatter

from jobs.manifest.columns.header import did_you_mean
from jobs.manifest.columns.options import MAX_PROMPT
from jobs.manifest.recipe.recipe import RandomDraw, Template, Variable
from jobs.manifest.recipe.yaml_nodes import Node, Pairs
from jobs.manifest.values import shown


def read_templates(
    node: Node | None,
    places: Pairs,
    variables: Sequence[Variable],
    draw: RandomDraw | None,
    has_file: bool,
) -> tuple[Template, ...]:
    """Parse the templates of `node`, a text or a list of texts; `places` are the nodes of the variables.

    `has_file`: there is a file of prompts, which {prompt} refers to. Raises ManifestError.
    """
    texts: Sequence[Node] = []
    if node is not None:
        texts = node.distinct("template") if isinstance(node.value, list) else [node]
    templates = tuple(_template(text, variables, draw, has_file) for text in texts)
    used = {variable.name for template in templates for variable in template.variables}
    for key, _ in places:
        if key.text not in used:
            raise key.error(
                f"the variable {shown(key.text)} is used in no template; remove it, or write {{{key.text}}}"
            )
    return templates


def _template(node: Node, variables: Sequence[Variable], draw: RandomDraw | None, has_file: bool) -> Template:
    known = {variable.name for variable in variables} | ({"prompt"} if has_file else set())
    used = set(_names(node, known))
    if has_file and "prompt" not in used:
        raise node.error(
            "the prompts of the file are not used in this template; write {prompt}, or leave out the file"
        )
    assert isinstance(node.value, str)
    own = tuple(variable for variable in variables if variable.name in used)
    template = Template(node.value, node.line, own, draw)
    if template.shortest > MAX_PROMPT:
        raise node.error(
            f"a prompt of this template has {template.shortest:,} characters or more; at most {MAX_PROMPT:,} are "
            "allowed"
        )
    return template


def _names(node: Node, known: Collection[str]) -> Iterator[str]:
    if not isinstance(node.value, str) or not node.value.strip():
        raise node.error(f"a template is a text such as 'a {{colour}} {{shape}}', not {shown(node.plain())}")
    try:
        parts = list(Formatter().parse(node.value))
    except ValueError as error:
        raise node.error(
            f"the template's braces don't pair up ({error}); a literal brace is written twice"
        ) from None
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise node.error(
                f"{shown('{' + name + '}')}: write a variable's name alone; a literal brace is written twice"
            )
        if name not in known:
            raise node.error(f"there is no variable {shown(name)}; {_hint(name, known)}")
        yield name


def _hint(name: str, known: Collection[str]) -> str:
    if name == "prompt":
        return "{prompt} is the prompt of a file, and prompts names none"
    return did_you_mean(name, known) if known else "list its values under variables"
