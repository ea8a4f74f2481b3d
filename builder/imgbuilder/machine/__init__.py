"""The machine that an image is run in, and how to start it: a script for QEMU, and domains of libvirt.

From one description (``model``) come a script (``runscript``), an XML file and
a command line (``libvirt``). All devices are virtio. Pure, but for ``look``.
"""
