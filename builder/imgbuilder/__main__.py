"""``python -m imgbuilder`` is ``pybuilder``."""

from imgbuilder.cli.entry import main

main()
