-- Version 3 did not tell the metadata that a caller gave at ingest from what a file says about itself.

ALTER TABLE sources ADD COLUMN given TEXT NOT NULL DEFAULT '{}';  -- JSON; it is part of `metadata`, too

-- Version 3 kept one Chroma folder that was changed in place. Now there are segments, which are not.
DELETE FROM meta WHERE key LIKE 'chroma:%';
