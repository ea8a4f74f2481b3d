"""``python -m imgbuilder`` is ``pybuilder``."""

from imgbuilder.cli.main import main

main()
