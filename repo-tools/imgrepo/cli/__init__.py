"""The command ``pybuilder-repo``; nothing outside this folder prints or exits."""
