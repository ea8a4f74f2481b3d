"""The instant appliance: a booted appliance is saved once and resumed afterwards.

``program`` runs in place of the hypervisor and decides, ``store`` keeps the
states, ``save`` makes one, and ``resume`` opens an appliance from one. Scripts
that run in the appliance (in ``save``) give it fresh random numbers.
"""
