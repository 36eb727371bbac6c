'use strict';

// What a client saw, as one JSON line each, for the test to read.

const served = new Map();

function report(event) {
  console.log(JSON.stringify(event));
}

/** Reports who serves a client, whenever that changes. */
function servedBy(client, pid) {
  if (served.get(client) === pid) return;
  served.set(client, pid);
  report({ event: 'served', client, pid });
}

/** The client has no connection: what it gets next counts as new, also from the same worker. */
function lost(client) {
  served.delete(client);
}

function failed(client, message) {
  report({ event: 'failed', client, message });
}

/** A source address of its own for each client. */
function source(client) {
  return `127.0.0.${client + 1}`;
}

module.exports = { report, servedBy, lost, failed, source };
