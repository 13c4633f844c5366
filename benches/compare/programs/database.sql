-- Inserts, an index, joins, groups and updates on a database in memory.
PRAGMA journal_mode = OFF;
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city INTEGER, note TEXT);
CREATE TABLE city(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE visit(person INTEGER, city INTEGER, day INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
INSERT INTO city SELECT i, 'city ' || (i * 7919 % 1009) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < @ROWS@)
INSERT INTO person SELECT i, 'name ' || (i * 7919 % 10007), i % 400 + 1, printf('%.*c', i % 180, 'x') FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2 * @ROWS@)
INSERT INTO visit SELECT i * 31 % @ROWS@ + 1, i * 17 % 400 + 1, i % 365 FROM n;
CREATE INDEX person_name ON person(name);
CREATE INDEX visit_person ON visit(person);
SELECT c.name, count(*), sum(length(p.note)) FROM person p JOIN city c ON c.id = p.city GROUP BY c.name ORDER BY 2 DESC, 1 LIMIT 20;
SELECT count(DISTINCT p.name) FROM person p JOIN visit v ON v.person = p.id WHERE v.day BETWEEN 10 AND 200;
UPDATE person SET note = note || name WHERE city % 3 = 0;
SELECT group_concat(name, ',') FROM (SELECT name FROM person WHERE note LIKE '%name 1%' ORDER BY name LIMIT 2000);
SELECT a.day, count(*) FROM visit a JOIN visit b ON a.person = b.person AND a.day < b.day GROUP BY a.day ORDER BY a.day LIMIT 30;
DELETE FROM visit WHERE day % 2 = 1;
SELECT count(*), sum(day) FROM visit;
