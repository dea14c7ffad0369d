"""Text cleaning before tokenising. Pure; standard library only."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from html.entities import html5

_INLINE = re.compile(
    r"a|abbr|acronym|b|big|cite|code|del|dfn|em|font|i|ins|kbd|nobr|q|s|samp|small|span|strike"
    r"|strong|sub|sup|tt|u|var"
)
_BLOCK = re.compile(
    r"address|blockquote|body|br|center|dd|div|dl|dt|h[1-6r]|head|html|img|li|ol|p|pre|script"
    r"|style|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
# Attributes need a value: "a <b and c> d" is prose, not a tag. AG News has \\ for line ends.
_TAG = re.compile(
    r"""<(/?)([A-Za-z][A-Za-z0-9]*)(?:[\s\\]+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))*\s*/?>"""
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# AG News lost its ampersands: "America&#39;s" became "America #39;s". The blank in front stands
# for the ampersand, so it goes with the entity. Only names that no English sentence
# ends on: "times;", "part;" and "sum;" are entities too.
_BROKEN = re.compile(
    r"(?:(?<=[^\s]) |(?<![\w&/;])|(?<=\s) )"
    r"(#0?\d{2,4}|#[xX][0-9a-fA-F]{2,4}|quot|amp|lt|gt|nbsp|apos|hellip|mdash|ndash"
    r"|[lr][sd]quo|trade|[A-Za-z](?:acute|grave|uml|circ|tilde|cedil));"
)


def clean_text(text: str, steps: Iterable[str]) -> str:
    """Return text after these cleaning steps, in their order.

    `html` turns entities into characters, also those of AG News that lost their ampersand
    (`#39;`, `quot;`, `#36;`), and removes tags; `a < b` stays. `whitespace` makes every run of
    white space one blank and strips the ends.

    Raises:
        ValueError: a step is not known.
    """
    for step in steps:
        if step == "html":
            text = _html(text)
        elif step == "whitespace":
            text = " ".join(text.split())
        else:
            raise ValueError(f"unknown cleaning step {step!r}")
    return text


def _html(text: str) -> str:
    # Twice: "&amp;lt;b&amp;gt;" was escaped on its way into a feed that was escaped again.
    for _ in range(2):
        if ";" not in text:
            break
        text = _BROKEN.sub(_character, text)
        text = _ENTITY.sub(_entity, text)
    if "<" in text:
        text = _COMMENT.sub(" ", text)
        text = _TAG.sub(_tag, text)
    return text


def _entity(match: re.Match[str]) -> str:
    name = match.group(1)
    # html.unescape takes "&notes;" for "&not" and "es;".
    if name[0] != "#" and f"{name};" not in html5:
        return match.group()
    return html.unescape(match.group())


def _character(match: re.Match[str]) -> str:
    name = match.group(1)
    character = html.unescape(f"&{name};")
    # "No. #10;" and "#66;" are prose: nobody escapes letters, digits or control characters.
    plain = character.isascii() and (character.isalnum() or not character.isprintable())
    return match.group() if plain or character.startswith("&#") else character


def _tag(match: re.Match[str]) -> str:
    name = match.group(2).lower()
    if _INLINE.fullmatch(name):
        return ""
    return " " if _BLOCK.fullmatch(name) else match.group()  # <MSFT> is a ticker
