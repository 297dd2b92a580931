"""One file per figure, found by `bench.find`; it keeps `reports.contracts.FigureModule`."""
