"""``python -m imgrepo`` is ``pybuilder-repo``."""

from imgrepo.cli.main import main

main()
