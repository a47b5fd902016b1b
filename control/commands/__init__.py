"""The verbs of the command line, by subject. Each module registers its own; none holds logic of the domain."""
