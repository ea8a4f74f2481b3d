"""The instant appliance: a booted appliance is saved once, and resumed from then on.

``program`` decides where the hypervisor's command line is known, ``store``
keeps the states, ``save`` makes one, ``resume`` opens an appliance from one,
``guestside`` says what runs in the appliance meanwhile, above all how a resumed
one gets random numbers of its own (``docs/adr/0004``).
"""
