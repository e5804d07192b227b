"""Measures that compare generated SAR images with real ones; each is a pure function with a test of its own."""
