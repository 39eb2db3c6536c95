<?php
/* Adminer of Debian behind a password, for one database: PHP's own web server runs this file for every request.

   From the environment: ADMIN_UIS_USER and ADMIN_UIS_PASSWORD, who may look; ADMINER_SERVER (host:port),
   ADMINER_DATABASE, ADMINER_ROLE and ADMINER_PASSWORD, where it logs in and as whom; ADMINER_READ_ONLY (true, false).
   libpq reads PGSSLMODE and PGSSLROOTCERT by itself.

   Nothing of Adminer runs before the password is checked. Whoever has it is logged in at this server as this role, and
   cannot name another: what a request says of a server, a role or a kind of database is not used. */

const ADMINER = '/usr/share/adminer/adminer.php';
const TENANT = 'metabuilder_tenant';
/* PHP's web server answers one request after the other: a slow statement keeps the next page waiting. */
const STATEMENT_TIMEOUT = '60s';
/* Each kind of server or file that an Adminer can open has such a name in its URLs. */
const OTHER_KINDS = ['server', 'sqlite', 'sqlite2', 'oracle', 'mssql', 'mongo', 'elastic', 'elastic5', 'simpledb',
    'firebird', 'clickhouse', 'imap', 'igdb'];

function is_allowed(): bool {
    $password = (string) getenv('ADMIN_UIS_PASSWORD');
    $rightUser = hash_equals((string) getenv('ADMIN_UIS_USER'), (string) ($_SERVER['PHP_AUTH_USER'] ?? ''));
    $rightPassword = hash_equals($password, (string) ($_SERVER['PHP_AUTH_PW'] ?? ''));
    return $password !== '' && $rightUser && $rightPassword;
}

/** Ends a request for another server, or for a file as a database. */
function refuse(): never {
    http_response_code(403);
    exit("Only the site's PostgreSQL can be looked at here\n");
}

/** Sends the browser to the tables. */
function go_to_tables(): void {
    $names = ['pgsql' => '', 'username' => getenv('ADMINER_ROLE'), 'db' => getenv('ADMINER_DATABASE'), 'ns' => 'public'];
    header('Location: /?' . http_build_query($names), true, 303);
}

/** Settings of the session in PostgreSQL, which libpq reads from the environment. */
function set_session_options(): void {
    $escape = fn(string $value): string => str_replace(['\\', ' '], ['\\\\', '\\ '], $value);
    $tenant = $escape((string) ($_COOKIE[TENANT] ?? ''));
    $options = ["-c metabuilder.tenant_id=$tenant", '-c statement_timeout=' . STATEMENT_TIMEOUT];
    if (getenv('ADMINER_READ_ONLY') !== 'false') {
        $options[] = '-c default_transaction_read_only=on';
    }
    putenv('PGOPTIONS=' . implode(' ', $options));
    putenv('PGAPPNAME=adminer');
}

/** Adminer asks for this object, once its session has begun. Adminer 5 has its names in a namespace, Adminer 4 has not. */
function adminer_object(): object {
    class_alias(class_exists('Adminer\Adminer') ? 'Adminer\Adminer' : 'Adminer', 'AdminerOfDebian');
    // Logged in already: the password that counts was checked before, and credentials() has the role's.
    $_SESSION['pwds']['pgsql'][''][getenv('ADMINER_ROLE')] = 'checked before';

    return new class extends AdminerOfDebian {
        function credentials(): array {
            $kind = defined('Adminer\DRIVER') ? constant('Adminer\DRIVER') : DRIVER;
            if ($kind !== 'pgsql') {
                refuse();
            }
            return [getenv('ADMINER_SERVER'), getenv('ADMINER_ROLE'), getenv('ADMINER_PASSWORD')];
        }

        function login($login, $password) {
            return true;
        }

        function databases($flush = true): array {
            return [getenv('ADMINER_DATABASE')];
        }

        function navigation($missing): void {
            // Who logged out would be in again with the next page: the browser keeps the password.
            echo '<style>.logout { display: none }</style>';
            $tenant = htmlspecialchars((string) ($_COOKIE[TENANT] ?? ''), ENT_QUOTES);
            echo "<form action='/' method='get' id='tenant'><p>",
                "<label>Tenant <input name='tenant' size='12' value='$tenant'></label> <input type='submit' value='Show'>",
                $tenant === '' ? '<br>Tables of mail are empty without a tenant.' : '', '</form>';
            parent::navigation($missing);
        }
    };
}

if (!is_allowed()) {
    header('WWW-Authenticate: Basic realm="Adminer", charset="UTF-8"');
    http_response_code(401);
    exit("Access denied\n");
}
if (isset($_GET['tenant'])) {
    setcookie(TENANT, (string) $_GET['tenant'], ['httponly' => true, 'samesite' => 'Strict', 'path' => '/']);
    go_to_tables();
    exit;
}
if (array_intersect(OTHER_KINDS, array_keys($_GET))) {
    refuse();
}
// A request of a logged-in person is about PostgreSQL, or a file of Adminer's, or the way in.
$isFile = isset($_GET['file']);
if (!$isFile && (($_GET['pgsql'] ?? null) !== '' || ($_GET['username'] ?? null) !== getenv('ADMINER_ROLE'))) {
    go_to_tables();
    exit;
}
unset($_POST['auth']);
set_session_options();
// Adminer's own header allows a frame of its makers, which would tell them of this site.
header_register_callback(function (): void {
    header("Content-Security-Policy: connect-src 'self'; frame-src 'none'", false);
    header('Cache-Control: no-store');
});
require ADMINER;
