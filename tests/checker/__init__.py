"""A history checker: clients of a store on servers that fail, and a judgement of all they saw.

``python -m tests.checker --seconds 600`` runs for ten minutes against three servers, each in a network of its own.

Several nodes, each a store and a bus on one connection, have clients that save, load and read, and a follower each that
begins again and again behind its checkpoint. Processes of their own consume, by iterating and by a runner. Meanwhile
servers are killed, frozen and parted from each other, leaders step down, links break and workers are killed. Then all
is healed, followers and consumers come to the end of the stream, and ``history.py`` judges what was recorded.

What is random is so by a seed; how threads and servers take turns is not, so a seed repeats a plan, and not a run.
"""
