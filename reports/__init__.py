"""Tables, figures and one HTML page from the numbers in `runs/` (see `reports.build`)."""
