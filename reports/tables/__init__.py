"""One file per table, found by `bench.find`; it keeps `reports.contracts.TableModule`."""
