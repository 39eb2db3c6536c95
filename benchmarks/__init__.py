"""Benchmarks: one command each, peers side by side in the same run. `./manage.sh bench NAME`."""
