"""postgresql@VERSION-main.service"""

import shlex
import signal

from testinfra.host import Host

from tests.support.site import Site, main_pid, sql, wait_active


def unit(host: Host) -> str:
    version = host.check_output("ls /etc/postgresql")
    return f"postgresql@{version}-main.service"


def test_it_runs_and_starts_with_the_host(postgresql_host: Host) -> None:
    assert postgresql_host.service(unit(postgresql_host)).is_running
    assert postgresql_host.service("postgresql").is_enabled


def test_the_application_is_an_ordinary_role_and_owns_nothing(site: Site) -> None:
    flags = "bool_or(rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls OR rolreplication)"
    assert sql(site, f"SELECT {flags} FROM pg_roles WHERE rolname ~ '^metabuilder'").strip() == "f"
    owned = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tableowner = 'metabuilder'"
    assert sql(site, owned).strip() == "0"


def test_only_the_workers_may_call_what_looks_across_tenants(site: Site) -> None:
    allowed = "SELECT has_function_privilege('{}', 'list_dead_letters()', 'EXECUTE')"
    assert sql(site, allowed.format("metabuilder_worker")).strip() == "t"
    assert sql(site, allowed.format("metabuilder")).strip() == "f"


def test_passwords_are_kept_as_scram_secrets(site: Site) -> None:
    kept = sql(site, "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname ~ '^metabuilder'")
    assert kept.split() == ["SCRAM-SHA-256"] * 3


def test_migrations_are_at_the_head(site: Site) -> None:
    assert sql(site, "SELECT count(*) FROM alembic_version").strip() == "1"


def test_large_columns_are_compressed_with_lz4(site: Site) -> None:
    """Debian's PostgreSQL has lz4; the one that the other tests run on, from a wheel, has not."""
    of_messages = "attrelid = 'email_message'::regclass AND attcompression = 'l'"
    compressed = sql(site, f"SELECT attname FROM pg_attribute WHERE {of_messages}").split()
    assert sorted(compressed) == ["headers", "html_body", "text_body"]


def test_only_the_applications_hosts_may_come_in(site: Site) -> None:
    rows = sql(site, "SELECT auth_method FROM pg_hba_file_rules WHERE 'metabuilder' = ANY(user_name)").split()
    assert rows
    assert set(rows) == {"scram-sha-256"}
    everybody = "SELECT count(*) FROM pg_hba_file_rules WHERE address IN ('0.0.0.0', '::', 'all')"
    assert sql(site, f"{everybody} AND auth_method <> 'reject'").strip() == "0"


def test_a_statement_that_fails_is_logged_without_its_values(site: Site) -> None:
    """The statement and the DETAIL hold people's mail; SQLSTATE and message say what went wrong."""
    server = site.first("postgresql")
    broken = "DO $$ BEGIN CREATE TEMP TABLE t (address text PRIMARY KEY); "
    broken += "INSERT INTO t VALUES ('hidden@leak.example'), ('hidden@leak.example'); END $$"
    done = server.run(f"cd / && runuser -u postgres -- psql -X -d metabuilder -c {shlex.quote(broken)}")
    assert done.rc != 0
    logged = server.check_output("cat /var/log/postgresql/*.log")
    assert "psql 23505 ERROR:  duplicate key value violates unique constraint" in logged
    assert "hidden@leak.example" not in logged


def test_statements_are_counted_without_their_values(site: Site) -> None:
    sql(site, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements", database="postgres")
    sql(site, "SELECT 'hidden@leak.example'::varchar")
    counted = sql(site, "SELECT query FROM pg_stat_statements", database="postgres")
    sql(site, "DROP EXTENSION pg_stat_statements", database="postgres")
    assert "SELECT $1::varchar" in counted
    assert "hidden@leak.example" not in counted


def test_it_comes_back_when_killed(postgresql_host: Host) -> None:
    name = unit(postgresql_host)
    before = main_pid(postgresql_host, name)
    postgresql_host.check_output(f"systemctl kill -s {signal.SIGKILL:d} {name}")
    wait_active(postgresql_host, name, not_pid=before)
