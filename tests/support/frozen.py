"""Loaded last by the process that programs are forked from: what is loaded by then stays shared with the programs.

A collection of garbage writes a mark into each object that it looks at, so that a program would copy nearly all that
it shares, at its first collection. Frozen objects are not looked at.
"""

import gc

gc.collect()
gc.freeze()
