// Runs Redis Commander on 127.0.0.1: node start-redis-commander.js FOLDER PORT, where FOLDER has its node_modules.
//
// From the environment: ADMIN_UIS_USER and ADMIN_UIS_PASSWORD, who may look; REDIS_COMMANDER_CONNECTIONS, the servers as
// JSON ([{label, host, port, dbIndex, username, password, tls}], the names of Redis Commander); REDIS_COMMANDER_READ_ONLY
// (true, false). With node's --use-openssl-ca, SSL_CERT_FILE
// is the authority of the servers' certificates.
'use strict';

const http = require('http');
const path = require('path');

const NO_PASSWORD = 78; // EX_CONFIG of sysexits.h; the unit is not started again after it
const OTHER_SERVERS = /^\/+(login|logout)(\/|\?|$)/i;

const [folder, port] = process.argv.slice(2);
const { ADMIN_UIS_USER, ADMIN_UIS_PASSWORD, REDIS_COMMANDER_CONNECTIONS, REDIS_COMMANDER_READ_ONLY } = process.env;

// Redis Commander would let everybody in.
if (!ADMIN_UIS_USER || !ADMIN_UIS_PASSWORD) {
  console.error('Redis Commander does not start without a password: ADMIN_UIS_USER (admin_uis_user) or ' +
    'ADMIN_UIS_PASSWORD (admin_uis_password) is empty');
  process.exit(NO_PASSWORD);
}

const configuration = {
  noSave: true,
  noLogData: true,
  redis: { readOnly: REDIS_COMMANDER_READ_ONLY !== 'false' },
  server: {
    address: '127.0.0.1',
    port: Number(port),
    httpAuth: { username: ADMIN_UIS_USER, password: ADMIN_UIS_PASSWORD },
  },
  connections: JSON.parse(REDIS_COMMANDER_CONNECTIONS),
};

function namesOtherServer(url) {
  try {
    return OTHER_SERVERS.test(decodeURI(url));
  } catch (error) {
    return true; // no URL that a browser would write
  }
}

// Whoever is logged in could have it connect to any server, or away from its own for everybody.
const createServer = http.createServer;
http.createServer = (answer) => createServer((request, response) => {
  response.setHeader('X-Frame-Options', 'DENY');
  response.setHeader('X-Content-Type-Options', 'nosniff');
  if (namesOtherServer(request.url)) {
    response.writeHead(403, { 'Content-Type': 'application/json' });
    response.end('{"ok":false,"message":"Only the Redis of the site can be looked at here"}');
    return;
  }
  answer(request, response);
});

const modules = path.join(path.resolve(folder), 'node_modules');
const program = path.join(modules, 'redis-commander');
process.env.NODE_CONFIG = JSON.stringify(configuration);
process.env.NODE_CONFIG_DIR = path.join(program, 'config');
process.env.ALLOW_CONFIG_MUTATIONS = 'true'; // as Redis Commander does
require(path.join(modules, 'config')); // which would look for a file for `production`
process.env.NODE_ENV = 'production';
process.argv = [process.argv[0], path.join(program, 'bin', 'redis-commander.js')];
require(process.argv[1]);
