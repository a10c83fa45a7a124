"""Tests of estimators/memory."""
