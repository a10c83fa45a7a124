"""Tests of calibrate/design."""
