"""Files on disk: written whole or not at all, with checksums that are compared before use, read with typed errors."""
