-- What the server has not applied yet of the files it reads, whoever changed them: 'restart', 'reload', 'nothing', or
-- what is wrong with them. The psql variable `etc` is the folder of the configuration, `tls` that of the certificates;
-- `wanted` is empty, or has as JSON the settings that are to be in our file instead of those that are there now.
WITH settings AS (
  -- Of a setting that is in the file no more and that only a restart can take back, PostgreSQL tells no name.
  SELECT *, sourcefile IS NULL AND error LIKE '%cannot be changed without restarting the server' AS is_left_out
  FROM pg_file_settings
), wrong AS (
  SELECT format('%s line %s: %s', :'etc' || '/pg_hba.conf', line_number, error) AS what
  FROM pg_hba_file_rules WHERE error IS NOT NULL
    -- True of the server as it still runs: its configuration turns TLS on as well.
    AND error NOT LIKE '%because SSL is disabled'
  UNION ALL
  SELECT format('%s line %s: %s: %s', file.sourcefile, file.sourceline, name, file.error)
  FROM settings AS file LEFT JOIN pg_settings USING (name)
  WHERE error IS NOT NULL AND context IS DISTINCT FROM 'postmaster' AND NOT is_left_out
), restart AS (
  -- What only a restart can apply is reported as an error, too.
  SELECT FROM settings LEFT JOIN pg_settings USING (name) WHERE error IS NOT NULL AND (context = 'postmaster' OR is_left_out)
), planned AS (
  SELECT context = 'postmaster' AS needs_restart
  FROM (
    SELECT key AS name, CASE value::text WHEN 'true' THEN 'on' WHEN 'false' THEN 'off' ELSE value #>> '{}' END AS setting
    FROM json_each(NULLIF(:'wanted', '')::json)
  ) AS wanted
  FULL JOIN (
    SELECT name, setting FROM pg_file_settings WHERE sourcefile = :'etc' || '/conf.d/metabuilder.conf'
  ) AS there USING (name)
  LEFT JOIN pg_settings USING (name)
  WHERE :'wanted' <> '' AND wanted.setting IS DISTINCT FROM there.setting
), reload AS (
  SELECT FROM unnest(ARRAY[
    :'etc' || '/conf.d/metabuilder.conf', :'etc' || '/pg_hba.conf', :'etc' || '/pg_ident.conf',
    :'tls' || '/postgresql.crt', :'tls' || '/postgresql.key'
  ]) AS path, pg_stat_file(path, true) AS file
  WHERE file.change > pg_conf_load_time()
)
SELECT CASE
  WHEN EXISTS (SELECT FROM wrong) THEN 'wrong: ' || (SELECT string_agg(what, '; ') FROM wrong)
  WHEN EXISTS (SELECT FROM restart) OR EXISTS (SELECT FROM planned WHERE needs_restart) THEN 'restart'
  WHEN EXISTS (SELECT FROM reload) OR EXISTS (SELECT FROM planned) THEN 'reload'
  ELSE 'nothing'
END;
