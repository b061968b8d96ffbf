"""Convolution and max pooling on the CPU: what is faster there than XLA's own, chosen when a program is lowered.

README.md beside this file says why, and how to add to it.
"""
