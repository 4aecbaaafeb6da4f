"""The demo app of the talk: Pyramid serving the sum of two numbers."""

import sys

# Python takes a cached module for fresh when size and whole second of its source agree. Two saves
# within one second, of the same length, would then run the older one. Live sync makes that likely.
sys.dont_write_bytecode = True
