"""How fast the bus is, as ratios to nats-py alone in the same run: ``python -m benchmarks``.

Every repetition of every case runs in a process of its own, the cases in turn (A B C A B C ...), so what the machine
does besides falls on all of them. A figure is the median; a ratio is the median of those to the first case of the same
direction in the same round.
"""
