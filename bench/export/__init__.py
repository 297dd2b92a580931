"""What was measured, as local files of other tools; nothing is uploaded."""
