"""Parameters as people write and read them: values from TOML, types and defaults in words.

A parameter is a field of a msgspec Struct (a resource type, or the table `[package]`); its unit, meaning and example
come from `msgspec.Meta(description=, examples=, extra={"unit": ...})`.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from .resource import Resource, Seconds

#: What `btw new` writes where only a person can know the value; refused as a value.
PLACEHOLDER = "CHANGE ME"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Seconds that any length of time may have: thirty years. What is longer is a slip.
LONGEST = 1e9
_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h)")
_WORDS = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Seconds: "seconds",
    dict: "table",
    type(None): "nothing",
}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a table, described for people."""

    name: str
    type: str  # in words
    required: bool
    default: str | None  # as TOML writes it; None: not set
    unit: str
    meaning: str
    example: str | None  # as TOML writes it


@cache  # msgspec evaluates all annotations at each call: that was most of the time to load a hundred packages
def fields(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of `struct`."""
    return msgspec.structs.fields(struct)


@cache
def parameters(struct: type[msgspec.Struct]) -> tuple[Parameter, ...]:
    """What may be written for `struct`, what every resource has at the end."""
    found = []
    common = Resource.__struct_fields__ if issubclass(struct, Resource) else ()
    for field in sorted(fields(struct), key=lambda each: each.name in common):
        meta = _meta(field.type)
        examples = next((m.examples for m in meta if m.examples), None)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        found.append(
            Parameter(
                name=field.encode_name,
                type=words(field.type),
                required=field.required,
                default=None if field.required or default is None else literal(default),
                unit=_unit(field.type, meta),
                meaning=next((m.description for m in meta if m.description), ""),
                example=literal(examples[0]) if examples else None,
            )
        )
    return tuple(found)


def convert(value: Any, annotation: Any) -> Any:
    """`value` as TOML gave it, as the annotation wants it. Raises ValueError: what was found and what is allowed."""
    if _holds(value, PLACEHOLDER):
        raise ValueError(f'is still "{PLACEHOLDER}" from `btw new`; allowed: {words(annotation)}')
    try:
        return msgspec.convert(value, annotation, dec_hook=_custom)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        inside = f" in {place.strip('`').removeprefix('$')}" if place else ""
        reason = "" if message.startswith(("Expected", "Invalid enum")) else f" ({message})"
        raise ValueError(f"found {_shown(value)}{inside}, allowed: {words(annotation)}{reason}") from None


def seconds(value: Any) -> Seconds:
    """A number of seconds, or text with a unit. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found: float = value
    elif isinstance(value, str) and (match := _LENGTH.fullmatch(value)):
        found = float(match[1]) * _UNITS[match[2]]
    else:
        raise ValueError('write a number, or text such as "500ms", "10s", "2m", "1h"')
    if not 0 <= found <= LONGEST:
        raise ValueError(f"must not be negative, nor more than {LONGEST:g}")
    return Seconds(found)


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that was most likely meant, or ""."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return near[0] if near else ""


def words(annotation: Any) -> str:
    """A type in words, with its limits: "whole number, at least 1"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [text for meta in _meta(annotation) for text in _limits(meta)]
        return ", ".join([words(arguments[0]), *limits])
    if origin in (Union, types.UnionType):
        return " or ".join(words(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return " or ".join(literal(each) for each in arguments)
    if annotation in (list, tuple, set, frozenset) or origin in (list, tuple, set, frozenset):
        return f"list of {words(arguments[0])}" if arguments else "list"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(literal(each.value) for each in annotation)
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    return _WORDS.get(origin or annotation) or str(getattr(annotation, "__name__", annotation))


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and not isinstance(value, Enum):
        return f"{value:g}" if isinstance(value, Seconds) else repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(literal(each) for each in value)}]"
    if isinstance(value, dict):
        pairs = (f"{literal(str(key))} = {literal(each)}" for key, each in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    text = str(value.value if isinstance(value, Enum) else value)
    # JSON's escapes are TOML's, but for DEL (TOML 1.0 "String")
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _custom(wanted: type, value: Any) -> Any:
    """Types that TOML has not: lengths of time, and every class that is made from one text (paths, addresses)."""
    if wanted is Seconds:
        return seconds(value)
    if not isinstance(value, str):
        raise ValueError(f"Expected text, got {_shown(value)}")
    return wanted(value)


def _holds(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(_holds(each, text) for each in value) if isinstance(value, list) else value == text


def _shown(value: Any) -> str:
    text = literal(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _meta(annotation: Any) -> list[msgspec.Meta]:
    """Everything that Annotated says, also inside `Annotated[...] | None`."""
    if get_origin(annotation) is Annotated:
        return [each for each in annotation.__metadata__ if isinstance(each, msgspec.Meta)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for part in get_args(annotation) for each in _meta(part)]
    return []


def _limits(meta: msgspec.Meta) -> list[str]:
    said = [
        ("at least", meta.ge),
        ("more than", meta.gt),
        ("at most", meta.le),
        ("less than", meta.lt),
        ("a multiple of", meta.multiple_of),
        ("length at least", meta.min_length),
        ("length at most", meta.max_length),
        ("matching", meta.pattern),
    ]
    return [f"{text} {limit}" for text, limit in said if limit is not None]


def _unit(annotation: Any, meta: list[msgspec.Meta]) -> str:
    said = next((str(m.extra["unit"]) for m in meta if m.extra and "unit" in m.extra), "")
    parts = get_args(annotation) or (annotation,)
    return said or ("s" if any(part is Seconds or Seconds in get_args(part) for part in parts) else "")
