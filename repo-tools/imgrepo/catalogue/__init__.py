"""The library as a web site: static pages from the signed index and the entries.

``gather`` reads the content, ``model`` holds it, ``render`` writes it, ``make`` puts the site in place,
``memory`` keeps what the next run must know.
"""
