"""What the benchmarks share: a mailbox like real mail, peers, a stack of real servers."""
