"""The stack on one machine without root."""

# The tenant that the command line uses by default.
TENANT = "default"
