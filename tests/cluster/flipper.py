"""Exchanges directories and files with links, as fast as it can, until /stop is there.

    flipper.py A B [C D...]     each pair is exchanged; at the end each is as it was

Prints how often.
"""
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE = -100, 2
names = [os.fsencode(name) for name in sys.argv[1:]]
pairs = list(zip(names[::2], names[1::2]))
links = [os.path.islink(a) for a, _ in pairs]


def exchange(a, b):
    return libc.renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0


flips = 0
while not os.path.exists("/stop"):
    for _ in range(500):
        for a, b in pairs:
            flips += exchange(a, b)
for (a, b), was in zip(pairs, links):
    if os.path.islink(a) != was:
        exchange(a, b)
print(flips)
