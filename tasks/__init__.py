"""Objectives (`class Objective`) and evaluations (`def run`): one file each."""
