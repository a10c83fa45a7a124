"""Tests of runs/tables."""
