"""Tests of estimators/fusion."""
