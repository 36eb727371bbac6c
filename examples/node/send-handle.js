// A parent that hands its listening handle to plain children: `child.send('server', server)`. No node:cluster.
//
// Under phalanx (policy `direct`, the default, or `shared`): each worker is such a parent with its own children, and
// what it hands them is its own share of the port. Not with `round-robin`: a worker then has no real handle to hand
// on, and Node itself crashes on the attempt, under node:cluster as under phalanx.

'use strict';

const { fork } = require('node:child_process');
const http = require('node:http');

const port = Number(process.env.PORT) || 8000;
const count = Number(process.env.WORKERS) || 2;

const answer = (req, res) => {
  res.writeHead(200, { 'Content-Type': 'text/plain' });
  res.end(`one socket, answered from ${process.pid}\n`);
};

if (process.argv[2] === 'child') {
  const app = http.createServer(answer);
  process.on('message', (message, server) => {
    if (message !== 'server') return;
    server.on('connection', (socket) => app.emit('connection', socket));
    // The parent is gone, or lets its children go: what is begun is finished.
    process.on('disconnect', () => server.close());
    process.send('ready');
  });
} else {
  const server = http.createServer(answer);
  server.listen(port, '127.0.0.1', () => {
    const children = [];
    for (let i = 0; i < count; i += 1) {
      const child = fork(__filename, ['child']);
      child.on('message', (message) => console.log(`child ${child.pid} is ${message}`));
      child.on('exit', (code, signal) => console.log(`child ${child.pid} left (${signal || code})`));
      child.send('server', server);
      children.push(child);
    }
    server.on('close', () => {
      for (const child of children) if (child.connected) child.disconnect();
    });
  });
}
