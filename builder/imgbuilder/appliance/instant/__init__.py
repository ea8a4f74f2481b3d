"""The instant appliance: a booted appliance is saved once and resumed afterwards.

``program`` runs in place of the hypervisor and decides, ``store`` keeps the
states, ``save`` makes one, ``resume`` opens an appliance from one, and
``guestside`` has the scripts that run in the appliance, which above all give a
resumed appliance fresh random numbers.
"""
