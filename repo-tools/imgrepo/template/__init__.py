"""Making a template from a distribution's archive: recipe, bootstrap, disk."""
