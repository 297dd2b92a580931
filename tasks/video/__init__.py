"""Objectives and evaluations that need frames in order."""
