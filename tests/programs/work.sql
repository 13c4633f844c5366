PRAGMA journal_mode = MEMORY;
PRAGMA cache_size = 200;
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price REAL, note BLOB);
CREATE TABLE link(a INTEGER, b INTEGER, weight INTEGER, PRIMARY KEY(a, b)) WITHOUT ROWID;
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
INSERT INTO item SELECT i, printf('name-%06d-%x', i * 7919 % 20011, i), i * 0.37, zeroblob(i % 300) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
INSERT OR IGNORE INTO link SELECT i * 31 % 997, i * 17 % 1009, i FROM n;
COMMIT;
CREATE INDEX item_name ON item(name);
CREATE INDEX link_weight ON link(weight, b);
SELECT count(*), sum(price), max(name), sum(length(note)) FROM item;
SELECT a, count(*), group_concat(b, ' ') FROM (SELECT * FROM link ORDER BY a, b) GROUP BY a HAVING a % 97 = 3;
SELECT l.a, i.name, sum(l.weight) OVER (PARTITION BY l.a % 7 ORDER BY l.b, l.a ROWS 5 PRECEDING)
  FROM link l JOIN item i ON i.id = l.b WHERE l.weight % 101 = 0 ORDER BY 1, 2, 3;
SELECT json_group_array(json_object('id', id, 'name', upper(name))) FROM item WHERE id % 1000 = 1;
WITH RECURSIVE walk(node, depth) AS (
  SELECT 5, 0 UNION SELECT b, depth + 1 FROM link, walk WHERE a = node AND depth < 2)
SELECT depth, count(*), min(node), max(node) FROM walk GROUP BY depth;
SELECT substr(name, -2) AS tail, count(*), round(avg(price), 3) FROM item GROUP BY tail ORDER BY 2 DESC, 1 LIMIT 40;
CREATE TRIGGER spread AFTER UPDATE ON item BEGIN
  UPDATE link SET weight = weight + 1 WHERE b = new.id % 1009;
END;
UPDATE item SET name = replace(name, 'name', 'renamed'), note = NULL WHERE id % 11 = 0;
DELETE FROM item WHERE id % 3 = 0;
SELECT count(*), sum(weight) FROM link;
REINDEX;
VACUUM;
PRAGMA integrity_check;
SELECT no_such_column FROM item;
