'use strict';
// A server that sends every connection it gets to the primary, with messages before and after.
const net = require('node:net');

const server = net.createServer({ pauseOnConnect: true }, (socket) => {
  process.send({ n: 1 });
  process.send({ n: 2 }, socket);
  process.send({ n: 3 });
  process.send({ n: 4 });
});
server.listen(Number(process.env.PORT), '127.0.0.1');

process.on('message', (order) => {
  if (order === 'count') server.getConnections((error, count) => process.send({ error, count }));
  else server.close(() => process.send({ closed: true }));
});
