"""Changing the guest: operations, each declared once, and the run that applies them in the user's order.

Read ``operation.py`` for what an operation is, ``registry.py`` for how one is
declared and parsed, ``ops/`` for the operations by area, and ``run.py`` for
the order in which a guest is customized.
"""
