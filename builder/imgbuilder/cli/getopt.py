"""virt-builder's way of writing options, turned into click's (``virt-builder.md`` 0.1).

Its parser is ``getopt_long_only``: a long option may have one dash or two, and
may be shortened to any unambiguous prefix; an exact name beats prefixes. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


def normalise(
    arguments: Sequence[str],
    options: Mapping[str, bool],
    shorts: Collection[str],
    optional: Collection[str] = (),
) -> list[str]:
    """Rewrite arguments so that every long option has two dashes and its full name.

    Args:
        arguments: The command line without the program's name.
        options: Long names without dashes, and whether each takes a value.
        shorts: Letters of short options.
        optional: Long names whose value may be left out; it is never the next word.

    Returns:
        The same arguments for a parser that knows ``--name`` only.

    Raises:
        UsageError: A prefix is ambiguous.
    """
    result: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            result += [word, *rest]
            break
        name = _long_name(word, options, shorts)
        if name is None:
            result.append(word)
            continue
        _, equals, value = word.partition("=")
        result.append(f"--{name}{equals}{value}")
        if name in optional:
            result[-1] = f"--{name}={value}"
        elif options[name] and not equals:
            # The value may look like an option, as in --append-line=... '-x'; it belongs to this one.
            following = next(rest, None)
            if following is not None:
                result[-1] = f"--{name}={following}"
    return result


def _long_name(word: str, options: Mapping[str, bool], shorts: Collection[str]) -> str | None:
    """Return the full name of the long option that a word means; None when it means none."""
    if not word.startswith("-") or word in {"-", "--"}:
        return None
    typed = word.lstrip("-").partition("=")[0]
    double = word.startswith("--")
    if typed in options and (double or len(typed) > 1):
        return typed
    if not double and typed[:1] in shorts:
        return None
    matches = sorted(name for name in options if name.startswith(typed))
    if len(matches) == 1:
        return matches[0]
    if len(matches) > 1:
        shown = ", ".join(f"--{name}" for name in matches)
        raise UsageError(f"option {word!r} is ambiguous", hint=f"it could be {shown}")
    return None
