'use strict';
// Servers of node:net on what LISTEN says: a JSON list, each member a list of arguments of
// listen(). Every client is told which worker it got. Tells where each server listens, or why not,
// and does what it is told with them.
const cluster = require('node:cluster');
const net = require('node:net');

const servers = [];

function open(args) {
  const n = servers.length;
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.write(`${cluster.worker.id}\n`);
    socket.resume();
  });
  server.on('listening', () => process.send({ n, address: server.address() }));
  server.on('close', () => process.send({ n, closed: true }));
  server.on('drop', () => process.send({ n, drop: true }));
  server.on('error', (error) => {
    const { name, message, code, errno, syscall, address, port } = error;
    process.send({ n, error: { name, message, code, errno, syscall, address, port } });
  });
  servers.push(server);
  server.listen(...args);
}

const orders = {
  open: ({ args }) => open(args),
  again: ({ n, args }) => servers[n].listen(...args),
  close: ({ n }) => servers[n].close(),
  limit: ({ n, to }) => {
    servers[n].maxConnections = to;
    process.send({ n, limit: to });
  },
  count: ({ n }) => servers[n].getConnections((error, count) => process.send({ n, error, count })),
  leave: () => cluster.worker.disconnect(),
  exit: ({ code }) => process.exit(code),
};

process.on('message', (order) => orders[order.do](order));
process.send('ready');
JSON.parse(process.env.LISTEN).forEach(open);
