"""Conditions on image rows that users write, such as `meta.label = 'fox' and clip_score > 24`, compiled to SQL.

    condition:  comparisons joined by `and`, `or`, `not` and parentheses
    comparison: COLUMN = != < <= > >= VALUE | COLUMN [not] in (VALUE, …) | COLUMN [not] like 'text%'
                | COLUMN is [not] null | COLUMN, where it is true or false
    COLUMN:     a column of image rows, or a value in a JSON column: `meta.label`, `quality.clip_score`,
                `meta."odd name"`; `clip_score` alone is `quality.clip_score`
    VALUE:      'text' (a quote is doubled), a number, true, false

What users write reaches SQL only as bound parameters and as names of columns that exist. As in SQL, a comparison with a
value that is missing is neither true nor false.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

from sqlalchemy import Boolean, DateTime, Numeric, Text
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.types import Float, Integer

from jobs.errors import UsageError
from jobs.images.insert_and_public_columns import public_columns
from jobs.suggest_names_and_shorten_lists import nearest

LONGEST = 4_000
"""Characters of a condition."""
_DEEPEST = 50

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?(?![\w.]))
    |(?P<name>[A-Za-z_]\w*(?:\.(?:[\w-]+|"[^"]+"))*)|(?P<sign><=|>=|!=|<>|==|[=<>(),]))""",
    re.VERBOSE,
)
_OPERATORS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = frozenset({"and", "or", "not", "in", "is", "null", "like", "true", "false"})
_ALIASES = {"clip_score": "quality.clip_score"}

# Numbers among JSON values; also those that a CSV manifest gave as text.
_NUMBER_OF_TEXT = r"""CASE WHEN length({0}) < 100 AND {0} ~ '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9][0-9]?)?$'
    THEN CAST({0} AS numeric) END"""


@dataclass(frozen=True)
class Condition:
    """A condition as SQL about the image row `i` and its batch `b`, with `values` for the parameters in it."""

    sql: str
    values: Mapping[str, Any]


VERDICTS = {"accepted": "(SELECT is_accepted FROM image_acceptance WHERE image_id = i.id)"}
"""A name for conditions on images that were judged, with its SQL; of others it is neither true nor false."""

ALL = Condition("true", {})
"""That every image meets."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def word(self) -> str:
        """The lower-case keyword that this is; empty for anything else."""
        return self.text.lower() if self.kind == "name" and self.text.lower() in _WORDS else ""


@dataclass(frozen=True)
class _Operand:
    """A column, or a value in a JSON column: the latter has the kind `any`, and `sql` is its text."""

    sql: str
    kind: str
    token: _Token


def compile_condition(text: str, flags: Mapping[str, str] | None = None) -> Condition:
    """Compile what a user wrote. Raises UsageError that says what is wrong, and where.

    `flags` are further names that are true or false, with their SQL.
    """
    if len(text) > LONGEST:
        raise UsageError(f"a condition has at most {LONGEST:,} characters, this one {len(text):,}")
    parser = _Parser(text, list(_tokens(text)), flags or {})
    sql = parser.either()
    if parser.next.kind != "end":
        parser.fail(f"expected `and`, `or` or the end, not {parser.next.text}")
    return Condition(f"({sql})", parser.values)


def chosen_by(where: str | None) -> Condition:
    """Compile the condition that an export stores, with `accepted` as a name; none chooses all images."""
    return compile_condition(where, VERDICTS) if where else ALL


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while match := _TOKEN.match(text, place):
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind))
        place = match.end()
    rest = text[place:].lstrip()
    if rest:
        _fail(text, len(text) - len(rest), "what begins here is neither a name nor a value nor an operator")
    yield _Token("end", "the end", len(text.rstrip()))


def _fail(text: str, place: int, what: str) -> NoReturn:
    raise UsageError(f"in the condition, character {place + 1}: {what}\n  {text}\n  {' ' * place}^")


@dataclass
class _Parser:
    text: str
    tokens: list[_Token]
    flags: Mapping[str, str]
    place: int = 0
    depth: int = 0
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def fail(self, what: str, token: _Token | None = None) -> NoReturn:
        _fail(self.text, (token or self.next).place, what)

    def take(self, *texts: str) -> _Token | None:
        """Return the next token and step over it if it is one of these words or signs."""
        token = self.next
        if (token.word or (token.text if token.kind == "sign" else None)) not in texts:
            return None
        self.place += 1
        return token

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.fail(f"expected {text}, not {self.next.text}")

    def either(self) -> str:
        parts = [self.both()]
        while self.take("or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def both(self) -> str:
        parts = [self.negated()]
        while self.take("and"):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def negated(self) -> str:
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail("too deeply nested")
        if self.take("not"):
            found = f"(NOT {self.negated()})"
        elif self.take("("):
            found = self.either()
            self.expect(")")
        else:
            found = self.comparison()
        self.depth -= 1
        return found

    def comparison(self) -> str:
        left = self.operand()
        if sign := self.take(*_OPERATORS):
            return self.compared(left, _OPERATORS[sign.text], self.value())
        if self.take("is"):
            negation = " NOT" if self.take("not") else ""
            self.expect("null")
            return f"({left.sql} IS{negation} NULL)"
        negation = "NOT " if self.take("not") else ""
        if self.take("in"):
            return f"({negation}({' OR '.join(self.compared(left, '=', token) for token in self.listed())}))"
        if self.take("like"):
            return f"({negation}{self.compared(left, 'LIKE', self.value('text'))})"
        if negation:
            self.fail(f"expected `in` or `like`, not {self.next.text}")
        if left.kind not in ("bool", "any"):
            self.fail(f"expected an operator such as =, not {self.next.text}")
        return left.sql if left.kind == "bool" else f"({left.sql} = 'true')"

    def operand(self) -> _Operand:
        token = self.next
        if token.kind != "name" or token.word:
            self.fail(f"expected the name of a column, not {token.text}")
        self.place += 1
        if token.text in self.flags:
            return _Operand(self.flags[token.text], "bool", token)
        name, *path = re.findall(r'[^."]+|"[^"]+"', _ALIASES.get(token.text, token.text))
        columns = {column.name: column for column in public_columns()}
        if name not in columns:
            near = nearest(name, [*columns, *self.flags])
            self.fail(
                f"image rows have no column {name!r}" + (f": did you mean {near!r}?" if near else ""), token
            )
        column = columns[name]
        if isinstance(column.type, JSON):
            if not path:
                self.fail(f"{name} holds several values: name one of them, as in {name}.label", token)
            keys = self.bound([part.strip('"') for part in path], "text[]")
            return _Operand(f"({column.sql} #>> {keys})", "any", token)
        if path:
            self.fail(f"{name} is a single value, there is no {'.'.join(path)} in it", token)
        return _Operand(column.sql, _kind(column.type), token)

    def value(self, *kinds: str) -> _Token:
        token = self.next
        is_value = token.kind in ("text", "number") or token.word in ("true", "false")
        if not is_value or (kinds and token.kind not in kinds):
            hint = ": texts are written in single quotes" if token.kind == "name" else ""
            self.fail(f"expected a {kinds[0] if kinds else 'value'}, not {token.text}{hint}")
        self.place += 1
        return token

    def listed(self) -> list[_Token]:
        self.expect("(")
        found = [self.value()]
        while self.take(","):
            found.append(self.value())
        self.expect(")")
        return found

    def compared(self, left: _Operand, operator: str, token: _Token) -> str:
        kind = "bool" if token.word else token.kind
        wanted = {"time": "text"}.get(left.kind, left.kind)
        if wanted not in ("any", kind):
            self.fail(f"{left.token.text} is a {left.kind}, and is compared with a {left.kind} alone", token)
        if kind == "number":
            number = _NUMBER_OF_TEXT.format(left.sql) if left.kind == "any" else left.sql
            return f"({number} {operator} {self.bound(Decimal(token.text), 'numeric')})"
        if kind == "bool":
            if operator not in ("=", "<>"):
                self.fail(f"true and false are compared by = and != alone, not {operator}", token)
            own = left.sql if left.kind == "bool" else f"CAST({left.sql} = 'true' AS bool)"
            return f"({own} {operator} {token.word})"
        text = token.text[1:-1].replace("''", "'")
        if left.kind == "time":
            return f"({left.sql} {operator} {self.bound(self.moment(text, token), 'timestamptz')})"
        return f"({left.sql} {operator} {self.bound(text, 'text')})"

    def moment(self, text: str, token: _Token) -> datetime:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            self.fail("expected a moment with its zone, such as '2026-11-22T18:00:00+01:00'", token)
        return found

    def bound(self, value: Any, kind: str) -> str:
        name = f"w{len(self.values)}"
        self.values[name] = value
        return f"CAST(:{name} AS {kind})"


def _kind(type_: Any) -> str:
    if isinstance(type_, Boolean):
        return "bool"
    if isinstance(type_, Float | Integer | Numeric):
        return "number"
    if isinstance(type_, DateTime):
        return "time"
    assert isinstance(type_, Text)
    return "text"
