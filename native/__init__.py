"""The stack on one machine without root."""

# The tenant and the user that the command line uses by default.
TENANT = "default"
USER = "admin"
