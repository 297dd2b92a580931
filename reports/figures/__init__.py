"""One file per figure: `draw(frame, figure) -> caption`; `reports.build` finds them all."""
