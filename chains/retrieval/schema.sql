-- Version 1 of the manifest. A new store runs this script, then each migration_N.sql in order.

CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE sources(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,      -- absolute path of a file, or 'app:' and the id of a text that an app added
    origin TEXT NOT NULL,           -- 'file' or 'app'
    kind TEXT NOT NULL,             -- 'markdown', 'pdf', ...
    title TEXT NOT NULL,
    content_hash BLOB NOT NULL,     -- blake2b-20 of the file's bytes
    stat TEXT NOT NULL,             -- size, mtime, ctime and inode; a file with equal stat is not read again
    size INTEGER NOT NULL,          -- bytes
    modified REAL NOT NULL,         -- seconds since the epoch
    ingested REAL NOT NULL,         -- seconds since the epoch
    metadata TEXT NOT NULL,         -- JSON
    text TEXT NOT NULL,             -- the text that all offsets point into
    blocks TEXT NOT NULL,           -- JSON [[start, end, heading, page], ...]: enough to split the text again
    text_hash BLOB NOT NULL,        -- blake2b-20 of the text
    parser INTEGER NOT NULL         -- PARSER_VERSION at the time of ingest
);

CREATE TABLE chunks(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chunk_id TEXT NOT NULL UNIQUE,
    source_id INTEGER NOT NULL REFERENCES sources(id),
    ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    title TEXT NOT NULL,
    heading TEXT NOT NULL,
    page INTEGER,
    text TEXT NOT NULL,
    vector_key BLOB NOT NULL,
    generation INTEGER NOT NULL     -- the generation in which the chunk became visible
);
CREATE INDEX chunks_source ON chunks(source_id, ordinal);
CREATE INDEX chunks_vector ON chunks(vector_key);
CREATE INDEX chunks_generation ON chunks(generation);

-- Vectors are committed batch by batch before their document is visible. A vector that no chunk refers to is
-- staged for a document to come, or left over from one that was removed.
CREATE TABLE vectors(key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);

-- Chunks that were removed, so that an index can catch up without starting over.
CREATE TABLE removed(chunk INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX removed_generation ON removed(generation);

CREATE VIRTUAL TABLE passages USING fts5(title, heading, body, content='', tokenize='porter unicode61');

INSERT INTO meta VALUES ('generation', '0'), ('removed_floor', '0');
