"""Prompts: templates over the columns of a text task."""

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter

from mergeloom.errors import MergeloomError


def fields_of(prompt: str) -> list[str]:
    """The columns that a prompt names, in their order.

    Raises
    ------
    MergeloomError – a brace that is not closed, names no column, or has more in it than a name.
    """
    try:
        parts = [part[1:] for part in Formatter().parse(prompt) if part[1] is not None]
    except ValueError as error:
        raise MergeloomError(
            f"prompt {prompt!r}: {error}; a brace of the text itself is written twice, {{{{ or }}}}"
        ) from None
    for name, form, conversion in parts:
        if not name or form or conversion or not name.isidentifier():
            raise MergeloomError(
                f"prompt {prompt!r}: {name!r} is no name of a column; write {{sentence}}, with "
                "letters, digits and _, and nothing else in the braces"
            )
    if not parts:
        raise MergeloomError(f"prompt {prompt!r}: names no column; write where texts go, {{text}}")
    return list(dict.fromkeys(name for name, _, _ in parts if name))


def prompted(prompt: str, columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The prompt of every row, with the texts of its columns in their places."""
    fields = fields_of(prompt)
    for texts in zip(*(columns[field] for field in fields), strict=True):
        yield prompt.format(**dict(zip(fields, texts, strict=True)))
