"""Figures over labelled parts: metrics, thresholds from good images, tables and the report."""
