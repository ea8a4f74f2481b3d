"""``pybuilder-repo``, also as ``python -m imgrepo``."""

import sys

from imgbuilder.cli.entry import run_quietly


def _run(arguments: list[str]) -> int:
    from imgrepo.cli.main import run  # late: Ctrl-C meanwhile is for run_quietly
    from imgrepo.services import Services

    return run(arguments, Services())


def main() -> None:
    """Run the command and exit."""
    sys.exit(run_quietly(_run))


if __name__ == "__main__":
    main()
