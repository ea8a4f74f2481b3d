"""The machine that runs an image, and the ways to start it: a script for QEMU, and domains of libvirt.

One description (``model``) becomes a script (``runscript``), or an XML file and a command line (``libvirt``).
All devices are virtio.
"""
