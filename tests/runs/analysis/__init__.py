"""Tests of runs/analysis."""
