"""The library as a web site: static pages from the signed index and the entries.

``gather`` reads, ``model`` is what was read, ``render`` and ``feed`` write it down, ``put`` brings it to its
place, ``memory`` keeps what the next run must know of this one.
"""
