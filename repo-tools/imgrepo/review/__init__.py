"""Review of a library's entries: checks, requirements of ``publish``, and states."""
