"""Counts downloads of templates in the web server's logs; there is no telemetry, and no cookies.

``logs`` reads lines, ``count`` adds them up, ``plot`` draws. Addresses of clients are counted, but not
kept or printed.
"""
