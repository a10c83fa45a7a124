"""Tests of estimators/graph."""
