"""What a PostgreSQL server may hold, by kind: each for psql, and each can stand beside all others."""

from __future__ import annotations

SERVER_CONTENTS = {
    "arrays, documents and ranges": r"""
        CREATE TABLE list(id int, a int[], b text[][], c jsonb, d json, e tstzrange, f int4multirange);
        INSERT INTO list VALUES
            (1, '{1,NULL,3}', '{{a,"b,c"},{"",NULL}}', '{"b": 1, "a": [null, "ü"]}', '{"b":1, "b":2 }',
             '[2026-03-01 00:00+00,)', '{[1,3),[5,8)}'),
            (2, '{}', '{}', '{}', '[]', 'empty', '{}');
        """,
    "bytes, odd numbers and nothing": r"""
        CREATE TABLE odd(id int, a bytea, b float8, c numeric, d text, e interval, f timestamptz, g bit(3), h money);
        INSERT INTO odd VALUES
            (1, '\x00ff0a5c', 'NaN', 'NaN', E'tab\t and \\. and \n', '1 mon -3 days', 'infinity', '101', 1.5),
            (2, '', '-0', 0.10, '', '0', '-infinity', NULL, NULL),
            (3, NULL, '1e-310', NULL, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO odd(id, a) SELECT 4, string_agg(sha512(n::text::bytea), '') FROM generate_series(1, 3000) n;
        """,
    "letters of many kinds": r"""
        CREATE TABLE wort(größe text, "日本" text, "a ""b"" .c" text COLLATE "C");
        INSERT INTO wort VALUES ('Ω ñ ż 🐢', E'a\u0308', ' '), ('ä', E'\u0001', E'\u2028');
        CREATE SCHEMA "Other; --";
        CREATE TABLE "Other; --"."Odd"(x int);
        INSERT INTO "Other; --"."Odd" VALUES (1);
        """,
    "a partitioned table": """
        CREATE TABLE part(id int, at date NOT NULL, kind varchar(9), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE part_2025 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        CREATE TABLE part_2026 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
            PARTITION BY RANGE (id);
        CREATE TABLE part_2026_low PARTITION OF part_2026 FOR VALUES FROM (0) TO (100);
        CREATE TABLE part_rest PARTITION OF part DEFAULT;
        CREATE INDEX ON part(kind);
        INSERT INTO part VALUES (1, '2025-05-05', 'a'), (1, '2026-05-05', 'b'), (2, '2024-01-01', 'c');
        """,
    "identity, sequences and generated columns": """
        CREATE TABLE made(id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5), a int,
            b int GENERATED ALWAYS AS (a * 2) STORED);
        INSERT INTO made(a) VALUES (1), (NULL);
        CREATE SEQUENCE unused START 7;
        CREATE SEQUENCE down INCREMENT -3 MINVALUE -99 CYCLE;
        SELECT nextval('down');
        CREATE SEQUENCE small AS smallint;
        SELECT setval('small', 5, false);
        """,
    "large objects": """
        CREATE TABLE blob(id oid);
        INSERT INTO blob SELECT lo_from_bytea(0, decode(repeat('00ff', 20000), 'hex'));
        SELECT lo_from_bytea(0, 'of no row'), lo_from_bytea(0, '');
        """,
    "types, checks and exclusions": """
        CREATE TYPE mood AS ENUM ('calm', 'it''s bad');
        CREATE DOMAIN share AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
        CREATE TYPE pair AS (x int, y text);
        CREATE TABLE checked(m mood DEFAULT 'calm', s share, p pair, k varchar(9) CHECK (k IN ('a', 'b')), r int4range,
            EXCLUDE USING gist (r WITH &&), UNIQUE NULLS NOT DISTINCT (k));
        INSERT INTO checked VALUES ('it''s bad', 1.5, ROW(1, NULL), 'a', '[1,2)'), (DEFAULT, NULL, NULL, NULL, NULL);
        """,
    "views, functions, triggers and rules": """
        CREATE VIEW titles AS SELECT title, made FROM report WHERE title IN ('Report 1', 'x') AND made > '2026-01-01';
        CREATE MATERIALIZED VIEW counted AS SELECT author, count(*) AS n FROM report GROUP BY author;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.title := NEW.title || '!'; RETURN NEW; END $$;
        CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON report FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE RULE kept AS ON DELETE TO setting DO INSTEAD NOTHING;
        """,
    "rows for some eyes only": """
        CREATE TABLE secret(id int, who text);
        ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON secret USING (who = current_user);
        INSERT INTO secret VALUES (1, 'nobody'), (2, 'backstay');
        """,
    "references in a circle and inheritance": """
        CREATE TABLE one(id int PRIMARY KEY, two int);
        CREATE TABLE two(id int PRIMARY KEY, one int REFERENCES one DEFERRABLE INITIALLY DEFERRED);
        ALTER TABLE one ADD FOREIGN KEY (two) REFERENCES two;
        BEGIN;
        INSERT INTO two VALUES (1, 1);
        INSERT INTO one VALUES (1, 1);
        COMMIT;
        CREATE TABLE child(more text) INHERITS (one);
        INSERT INTO child VALUES (1, 1, 'the same id');
        """,
    "an extension and a search index": """
        CREATE EXTENSION pg_trgm;
        CREATE INDEX words ON report USING gin (title gin_trgm_ops);
        CREATE INDEX told ON report USING gin (to_tsvector('simple', title)) WHERE photograph IS NOT NULL;
        """,
    "no rows, no columns and what is not logged": """
        CREATE TABLE nothing();
        INSERT INTO nothing DEFAULT VALUES;
        CREATE TABLE none(id int);
        CREATE UNLOGGED TABLE cache(k text PRIMARY KEY);
        INSERT INTO cache VALUES ('k');
        CREATE TEMPORARY TABLE passing AS SELECT 1;
        """,
    "gaps, and rows that are there twice": """
        CREATE TABLE twice(gone int, t text);
        INSERT INTO twice(t) VALUES ('a'), ('a'), (NULL), (NULL), ('b');
        ALTER TABLE twice DROP COLUMN gone;
        ALTER TABLE twice ADD COLUMN late int DEFAULT 7;
        DELETE FROM twice WHERE t = 'b';
        """,
}
