"""Tests of runs/store."""
