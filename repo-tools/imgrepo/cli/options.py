"""Options that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import UsageError
from imgrepo.publishing.request import Question
from imgrepo.review.results import Requirement
from imgrepo.services import Signing

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show the appliance's messages and other details."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
webroot_argument = click.argument("webroot", type=click.Path(path_type=Path))
library_option = click.option(
    "--library",
    type=click.Path(path_type=Path),
    default=".",
    metavar="DIR",
    help="The folder of the entries [default: this one].",
)


def require_option(text: str) -> Callable[..., Any]:
    """Return the option that names what ``publish`` requires.

    Args:
        text: What it does, for ``--help``.
    """
    return click.option(
        "--require",
        "required",
        type=click.Choice([one.value for one in Requirement]),
        multiple=True,
        help=f"{text}; may be given several times.",
    )


reviewers_option = click.option(
    "--reviewers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The public keys of those who may approve entries.",
)


def grace_option(text: str = "The grace time of --prune.") -> Callable[..., Any]:
    """Return the option that says for how long files stay that nothing names any more.

    Args:
        text: What it does, for ``--help``.
    """
    return click.option(
        "--grace",
        type=click.IntRange(0, 3650),
        default=7,
        show_default=True,
        metavar="DAYS",
        help=text,
    )


def gpg_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says which gpg signs."""
    return click.option(
        "--gpg",
        default="gpg",
        metavar="CMD",
        help="The gpg to use, perhaps with options: --gpg 'gpg --homedir DIR' [default: gpg].",
    )(function)


def signing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to sign, without the key."""
    for add in (
        gpg_option,
        click.option(
            "--expire",
            type=click.IntRange(0, 3650),
            metavar="DAYS",
            help="Let the signature expire after so many days, 0 for never [default: as before].",
        ),
    ):
        function = add(function)
    return function


def key_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to sign, and with which key."""
    return click.option(
        "-K",
        "--gpg-key",
        "keys",
        required=True,
        multiple=True,
        metavar="KEY",
        help="Sign with this key; given twice, with both, while clients move from one to the other.",
    )(signing_options(function))


def appliance_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that shape the appliance."""
    for add in (
        click.option(
            "--cache",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Keep the saved appliance in this cache folder.",
        ),
        click.option(
            "--no-instant", is_flag=True, help="Boot the appliance, instead of resuming a saved one."
        ),
        click.option(
            "-m",
            "--memsize",
            type=click.IntRange(256, 1 << 20),
            metavar="MB",
            help="Memory of the appliance.",
        ),
    ):
        function = add(function)
    return function


def signing(keys: tuple[str, ...], expire: int | None, gpg: str) -> Signing:
    """Read the options of ``key_options``.

    Raises:
        UsageError: The command of gpg cannot be read.
    """
    try:
        command = shlex.split(gpg)
    except ValueError as error:
        raise UsageError(f"--gpg {gpg}: {error}") from error
    if not command:
        raise UsageError("--gpg names no program")
    return Signing(keys[0], keys[1:], None if expire is None else timedelta(days=expire), tuple(command))


def ask(question: Question) -> str:
    """Ask at the terminal until the answer fits.

    Raises:
        UsageError: There is no answer to be had.
    """
    while True:
        try:
            answer = click.prompt(question.text, default=question.default, err=True, type=str)
        except click.Abort as error:
            raise UsageError(
                "standard input ended before all questions were answered",
                hint="without --interactive nothing is asked",
            ) from error
        answer = str(answer).strip()
        if question.pattern.fullmatch(answer) or (question.optional and answer == "-"):
            return answer
        click.echo(f"{answer!r} is not allowed here", err=True)
