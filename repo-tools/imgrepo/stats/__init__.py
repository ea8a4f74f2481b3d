"""How often templates were downloaded, from the web server's own logs; no telemetry, no cookies.

``logs`` reads lines, ``count`` adds them up, ``plot`` draws. Addresses of clients are only counted, and
neither kept nor printed.
"""
