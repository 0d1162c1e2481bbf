"""The claims of the three papers, a file per paper, and what the recipes measured of them on tiny-wan."""
