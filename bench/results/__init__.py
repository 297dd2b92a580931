"""Runs -> one long DataFrame, one row per measured number; and what a run kept beside its numbers.
The only API that reports use; `python -m bench.results` verifies an archive.

    rows.py      manifests, run directories and evaluated models -> rows
    correct.py   which samples were right, for intervals
    facts.py     config, code, curve and log of a run
    kept.py      predictions, pictures, objectives, subsets
    searches.py  what bench.tune has found
    rows_file.py rows and what reports need beside them, as one file; gather.py makes it of folders
    verify.py    whether every file is what was written
    recount.py   accuracies counted again from predictions
"""

from bench.results.correct import correct_samples
from bench.results.facts import RunFacts, run_facts, run_of
from bench.results.kept import PREDICTIONS, objectives, picture, pictures, predictions, subsets
from bench.results.rows import COLUMNS, EVALUATED, TRAINING, load, merged
from bench.results.rows_file import OnlyNumbers, is_rows_file
from bench.results.searches import search, search_of
from bench.store.learned import is_learned

__all__ = [
    "COLUMNS",
    "EVALUATED",
    "PREDICTIONS",
    "TRAINING",
    "OnlyNumbers",
    "RunFacts",
    "correct_samples",
    "is_learned",
    "is_rows_file",
    "load",
    "merged",
    "objectives",
    "picture",
    "pictures",
    "predictions",
    "run_facts",
    "run_of",
    "search",
    "search_of",
    "subsets",
]
