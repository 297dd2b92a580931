"""Tasks of the image domain, one file each."""
