"""Changes a guest: operations, each declared once, applied in the user's order.

``operation`` has their base, ``registry`` declares and parses them, ``ops/`` has the operations by area, and
``run`` customizes a guest with them.
"""
