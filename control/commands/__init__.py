"""The verbs of the command line, by subject. Each module registers its own; none holds logic of the domain.

A verb imports what it needs in its body, so that `barograph --help`, and each process that `up` starts, does not wait
for the compiler, the stream library and the database client of all the others.
"""
