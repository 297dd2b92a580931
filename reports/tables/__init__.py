"""One file per table: `build(frame) -> Table`; `reports.build` finds them all.

A module may also have ORDER (place on the page), SUMMARY = True (shown in the terminal after a
build) and headline(frame) -> [(what, number, explanation), ...] (shown at the top of the page).
"""
