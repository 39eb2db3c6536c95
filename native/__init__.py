"""The stack on one machine without root."""

# Whose accounts the command line speaks of, unless told otherwise.
TENANT = "default"
