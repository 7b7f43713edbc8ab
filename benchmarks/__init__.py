"""How fast bus and store are, as ratios to what a user would pick instead, in the same run: ``python -m benchmarks``.

Every run of every case has a process of its own, warms up, and measures; the cases run in turn (A B C A B C ...), so
what the machine does besides falls on all of them. A figure is the median of the rounds; a ratio is the median of those
to another case in the same round. The spread is the lowest and the highest.
"""
