"""Loops over image files on the host: fold, calibrate, score, and what they write."""
