"""YAML and JSON that somebody else wrote: read within bounds, and every way in which that may fail is one error.

YAML is read from PyYAML's events, and what they mean is decided here. PyYAML's own loader takes the last of repeated keys and
reads YAML 1.1, where `010` is 8 and `no` is false. A reader of YAML 1.2, ruamel.yaml, finds repeated keys but reads `010` as
10 without a word, builds aliases of aliases until memory or patience ends, and is three times as slow. Neither can say that
the two versions disagree, and a job must not depend on who is right.
"""

from __future__ import annotations

import codecs
import copy
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import Reader

from raymia.errors import first_line
from raymia.yaml_scalars import TAG, ScalarError, is_whole, plain_value, shown

MAX_BYTES = 64 * 2**20
"""Of a document; a manifest of 100,000 shards with their digests has 15 MB."""
MAX_NODES = 2_000_000
"""Values in a YAML document."""
MAX_REPEATED = 100_000
"""Values that aliases repeat."""
MAX_DEPTH = 64
"""Maps and lists within each other."""

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class DocumentError(ValueError):
    """A text is not what it should be; says what is wrong and where."""


def read_document(path: Path, most: int | None = None) -> bytes:
    """The bytes of a document on a local disk, of which no more are read than a document may have.

    Args:
        path: of the file.
        most: bytes that it may have; by default `MAX_BYTES`.

    Raises:
        OSError: the file cannot be read.
        DocumentError: it is larger.
    """
    most = MAX_BYTES if most is None else most
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    _require_small(content, most)
    return content


def parse_yaml(text: str | bytes) -> Any:
    """The contents of a YAML text: maps with text as keys, lists, text, whole and finite numbers, booleans and null.

    Whatever YAML 1.1 and 1.2 read differently is refused, and so are repeated keys, tags, and documents that are larger or
    deeper than `MAX_BYTES`, `MAX_NODES`, `MAX_REPEATED` and `MAX_DEPTH`. What an alias stands for is a copy.

    Args:
        text: bytes are UTF-8, or what their byte order mark says.

    Raises:
        DocumentError: names the line and column, what is wrong and what to write instead.
    """
    text = _decoded(text)
    unprintable = Reader.NON_PRINTABLE.search(text)
    if unprintable is not None:
        line, column = (
            text.count("\n", 0, unprintable.start()) + 1,
            unprintable.start() - text.rfind("\n", 0, unprintable.start()),
        )
        raise DocumentError(f"not YAML: line {line}, column {column}: the control character {unprintable[0]!r}")
    return _Document().read(text)


def parse_json(text: str | bytes, strict: bool = True, unbounded: Collection[str] = ()) -> Any:
    """The contents of a JSON text.

    Args:
        text: bytes are UTF-8, or what their byte order mark says.
        strict: refuse what a config cannot mean: repeated keys, numbers that are not finite, half a surrogate, and more depth
            than `MAX_DEPTH`. What merely stands beside a sample may hold them, as Python's own writer puts `NaN` there.
        unbounded: fields of the outermost map that may be infinite.

    Raises:
        DocumentError: it is not JSON, or larger than `MAX_BYTES`.
    """
    text = _decoded(text)
    try:
        content = json.loads(text, object_pairs_hook=_distinct if strict else None)
    except DocumentError:
        raise
    except Exception as error:
        raise DocumentError(f"not JSON: {first_line(error)}") from error
    if strict:
        infinite = [field for field in unbounded if isinstance(content, dict) and content.get(field) in (math.inf, -math.inf)]
        _require_plain({field: value for field, value in content.items() if field not in infinite} if infinite else content)
    return content


def write_yaml(content: Any) -> str:
    """A YAML text of maps, lists and scalars, in their order; `parse_yaml` reads it back, whatever its texts look like."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _require_small(content: str | bytes, most: int) -> None:
    if len(content) > most:
        raise DocumentError(f"larger than {most // 2**20} MiB, which no document of its kind is")


def _decoded(text: str | bytes) -> str:
    _require_small(text, MAX_BYTES)
    return (_text_of(text) if isinstance(text, bytes) else text).removeprefix("\ufeff")


def _text_of(content: bytes) -> str:
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"line {line}" if encoding == "utf-8" else f"byte {error.start}"
        raise DocumentError(f"{where}: not {encoding.upper()}; save the file as UTF-8") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that it has twice is an error."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise DocumentError(f"the key {shown(next(name for name in names if names.count(name) > 1))} stands twice; keep one")
    return content


def _require_plain(content: Any) -> None:
    """Refuse what json reads and no config means."""
    level, depth = [content], 0
    while level:
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise DocumentError(f"{value} is no number to reckon with; write a finite number")
        # A text with half a surrogate can be written nowhere.
        texts = [value for value in level if isinstance(value, str)]
        texts += [key for value in level if isinstance(value, dict) for key in value]
        broken = next((text for text in texts if not is_whole(text)), None)
        if broken is not None:
            raise DocumentError(f"the text {shown(broken)} has half a surrogate, which is no character")
        depth += 1
        if depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH}")
        inner = [
            list(value.values()) if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        ]
        level = [value for values in inner for value in values]


@dataclass
class _Open:
    """A map or list that is being read."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    began: int
    """Nodes that had been read when it began."""
    key: str | None = None
    """Of a map: the key whose value comes next."""
    lines: dict[str, int] = field(default_factory=dict)
    """Of a map: the line of each key."""

    @property
    def expects_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None


class _Document:
    """One YAML document, put together from a parser's events without a call within a call."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        """What each anchor stands for, and its number of nodes; none while it is being read."""
        self._nodes = self._repeated = 0
        self._documents = 0
        self._root: Any = None

    def read(self, text: str) -> Any:
        for event in _events(text):
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise _fault(event, "a second document begins; give each a file of its own")
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self._open.pop()
                self._put(event, done.value, done.anchor, self._nodes - done.began)
            elif isinstance(event, yaml.ScalarEvent):
                self._count(event)
                self._put(event, _scalar(event), event.anchor, 1)
            elif isinstance(event, yaml.AliasEvent):
                self._repeat(event)
        return self._root

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        _require_untagged(event)
        self._count(event)
        if self._open and self._open[-1].expects_key:
            raise _fault(event, "a map or list as a key; keys are text")
        if len(self._open) >= MAX_DEPTH:
            raise _fault(event, f"nested deeper than {MAX_DEPTH}")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor, self._nodes - 1))

    def _repeat(self, event: yaml.AliasEvent) -> None:
        """Put a copy of what an alias stands for."""
        if event.anchor not in self._anchors:
            raise _fault(event, f"the alias *{event.anchor} stands for nothing: no anchor &{event.anchor} is before it")
        known = self._anchors[event.anchor]
        if known is None:
            raise _fault(event, f"the alias *{event.anchor} stands within what it stands for")
        value, nodes = known
        self._repeated += nodes
        if self._repeated > MAX_REPEATED:
            raise _fault(event, f"aliases repeat more than {MAX_REPEATED:,} values")
        self._nodes += nodes
        self._put(event, copy.deepcopy(value), None, nodes)

    def _count(self, event: yaml.Event) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _fault(event, f"more than {MAX_NODES:,} values")

    def _put(self, event: yaml.Event, value: Any, anchor: str | None, nodes: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, nodes)
        if not self._open:
            self._root = value
            return
        place = self._open[-1]
        if isinstance(place.value, list):
            place.value.append(value)
        elif place.key is None:
            place.key = _key(event, value, place)
        else:
            place.value[place.key] = value
            place.key = None


def _events(text: str) -> Iterator[yaml.Event]:
    parser = yaml.parse(text, Loader=_PARSER)
    while True:
        try:
            event = next(parser)
        except StopIteration:
            return
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            context = f" ({error.context})" if error.context and error.problem else ""
            raise DocumentError(f"not YAML: {where}{error.problem or error.context}{context}") from error
        except Exception as error:
            raise DocumentError(f"not YAML: {' '.join(str(error).split()) or type(error).__name__}") from error
        yield event


def _fault(event: yaml.Event, what: str) -> DocumentError:
    mark = event.start_mark
    return DocumentError(f"line {_line(event)}, column {mark.column + 1}: {what}" if mark else what)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _require_untagged(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
    if event.tag is not None:
        raise _fault(event, f"the tag {shown(event.tag)}; raymia reads no tags, text stands in quotes")


def _key(event: yaml.Event, value: Any, place: _Open) -> str:
    if not isinstance(value, str):
        raise _fault(event, f"the key {shown(json.dumps(value))} is no text; put it in quotes")
    if value in place.lines:
        raise _fault(event, f"the key {shown(value)} stands in line {place.lines[value]} already; keep one")
    place.lines[value] = _line(event)
    return value


def _scalar(event: yaml.ScalarEvent) -> Any:
    _require_untagged(event)
    text = event.value
    if event.style in ('"', "'", "|", ">"):
        if not is_whole(text):
            raise _fault(event, f"the text {shown(text)} has half a surrogate, which is no character")
        return text
    try:
        return plain_value(text)
    except ScalarError as error:
        raise _fault(event, str(error)) from error


class _Dumper(yaml.SafeDumper):
    """Puts texts in quotes that without them are not read as text by every version of YAML."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = plain_value(text) == text
    except ScalarError:
        plain = False
    return dumper.represent_scalar(f"{TAG}str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)
