"""The composition root: command line, api, embedded services, supervisor. Knows every package; known by none."""
