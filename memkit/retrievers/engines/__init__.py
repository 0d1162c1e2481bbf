"""Search engines for vectors: exact and approximate FAISS, LanceDB, Qdrant; `protocol` says what another one needs."""
