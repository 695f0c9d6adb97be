-- Version 2 did not record what was left out of a file, nor where a chunk stands in the file itself.

ALTER TABLE sources ADD COLUMN partly TEXT NOT NULL DEFAULT '';  -- what was not read and why, in words
ALTER TABLE chunks ADD COLUMN place TEXT NOT NULL DEFAULT '';    -- JSON {"line": 12, "sheet": "Sales", ...}, or ''
ALTER TABLE chunks ADD COLUMN boxes TEXT NOT NULL DEFAULT '';    -- JSON [[start, end, page, left, top, right, bottom], ...]
