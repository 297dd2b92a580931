"""One file per figure: `draw(frame, figure) -> caption`; `reports.build` finds them all.

A figure without axes had nothing to draw. A module may also have ORDER (place on the page) and
TITLE.
"""
