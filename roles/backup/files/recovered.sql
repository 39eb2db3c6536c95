SELECT CASE WHEN pg_is_in_recovery() THEN 'recovering'
  ELSE coalesce(to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'), '') END
