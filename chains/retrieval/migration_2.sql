-- Version 1 looked at every vector after each ingest to find those that no chunk refers to. Since version 2
-- only the keys in `loose` are looked at: vectors that were added, or lost a chunk, since the last clean-up.

CREATE TABLE loose(key BLOB PRIMARY KEY) WITHOUT ROWID;
INSERT INTO loose SELECT key FROM vectors WHERE key NOT IN (SELECT vector_key FROM chunks);

-- Version 1 recorded less about Chroma's files than is needed now, so the index is rebuilt.
DELETE FROM meta WHERE key LIKE 'chroma:%';
