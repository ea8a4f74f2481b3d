"""``pybuilder-repo``, also as ``python -m imgrepo``."""

import sys
from importlib.util import find_spec

from imgbuilder.cli.entry import answer_at_once, run_quietly
from imgbuilder.host.packages import extra_command

_LIBRARIES = (
    "cyclonedx",
    "debian",
    "gnupg",
    "jinja2",
    "license_expression",
    "packageurl",
    "PIL",
    "pydantic",
    "regex",
)
"""The modules of the extra ``repo``, which a client does not need."""


def _run(arguments: list[str]) -> int:
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        reason = f"the libraries of publishers are not installed ({', '.join(missing)})"
        sys.stderr.write(f"pybuilder-repo: error: {reason}; type: {extra_command('repo')}\n")
        return 1
    code = answer_at_once("pybuilder-repo", arguments, __file__)
    if code is not None:
        return code
    from imgrepo.cli.main import run  # late: Ctrl-C meanwhile is for run_quietly
    from imgrepo.services import Services

    return run(arguments, Services())


def main() -> None:
    """Run the command and exit."""
    sys.exit(run_quietly(_run))


if __name__ == "__main__":
    main()
