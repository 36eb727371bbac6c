'use strict';
// Starts a program of its own, which is no worker and does not hold the channel; then dies.
const { spawn } = require('node:child_process');

const script = `
  const cluster = require('node:cluster');
  const fs = require('node:fs');
  const sockets = fs.readdirSync('/proc/self/fd').filter((fd) => {
    try { return fs.readlinkSync('/proc/self/fd/' + fd) === process.env.CHANNEL; } catch { return false; }
  });
  console.log(JSON.stringify({ isWorker: cluster.isWorker, isPrimary: cluster.isPrimary, sockets }));
  setTimeout(() => {}, 10000);
`;
const CHANNEL = require('node:fs').readlinkSync('/proc/self/fd/3');
const child = spawn(process.execPath, ['-e', script], {
  env: { ...process.env, CHANNEL },
  stdio: ['ignore', 'pipe', 'ignore'],
});
child.stdout.once('data', (line) => {
  process.send({ child: JSON.parse(line), pid: child.pid });
});
process.once('message', () => process.exit(0));
