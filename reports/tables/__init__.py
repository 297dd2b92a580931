"""One file per table: `build(frame) -> Table`; `reports.build` finds them all."""
